"""A relay reads ahead while it sends, stores its cursor seldom, and never lets a backlog hold up what is fresh."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from outbox import current_state, cursor, place, states
from outbox.relay import Relay
from tests.integration.relay_steps import MemorySink, make_primary, run, until

if TYPE_CHECKING:
    import pytest
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.publish import Outcome
    from core.mappings import Mappings
    from core.settings import Settings

PAGE = 20
INSERT = "INSERT INTO accounts (id) SELECT '{name}' || n FROM generate_series(1, {count}) n"


@dataclass
class Gated(MemorySink):
    """Lets one page through each time that it is told to."""

    waiting: int = 0
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def write(self, *items: Any, **how: Any) -> list[Outcome]:
        self.waiting += 1
        await self.gate.acquire()
        return await super().write(*items, **how)


async def test_a_backlog_is_sent_once_and_in_order_and_its_cursor_is_stored_seldom(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_primary(engine)
    await run(engine, INSERT.format(name="a", count=30 * PAGE), "UPDATE accounts SET email = 'x'")
    stored = []

    async def advance(connection: Any, group: Any, to: Any) -> bool:
        stored.append(to)
        return await cursor.advance(connection, group, to)

    monkeypatch.setattr(place, "advance", advance)
    monkeypatch.setattr(place, "FLUSH_S", 3600.0)
    monkeypatch.setattr(place, "LONGEST_FLUSH_S", 3600.0)
    sink = MemorySink()
    relay = Relay(settings.model_copy(update={"relay_page_size": PAGE}), mappings, engine, sink)
    assert await relay.drain() == 60 * PAGE
    assert len(sink.states) == len(sink.history) == 30 * PAGE  # the second messages found everything there
    assert relay.stats.passes >= 60
    assert 1 <= len(stored) <= 3
    assert await Relay(settings, mappings, engine, MemorySink()).drain() == 0


async def test_the_next_page_is_loaded_while_one_is_sent_and_no_more_than_three_wait(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_primary(engine)
    await run(engine, INSERT.format(name="a", count=10 * PAGE))
    loads = 0

    async def load(*arguments: Any) -> Any:
        nonlocal loads
        loads += 1
        return await current_state.load(*arguments)

    monkeypatch.setattr(states, "load", load)
    sink = Gated()
    relay = Relay(settings.model_copy(update={"relay_page_size": PAGE}), mappings, engine, sink)
    draining = asyncio.ensure_future(relay.drain())
    sink.gate.release()  # the first page is read alone
    await until(lambda: sink.waiting == 2 and loads >= 4)
    await asyncio.sleep(0.1)
    assert loads == 4
    for _ in range(10):
        sink.gate.release()
    assert await draining == 10 * PAGE


async def test_slots_far_behind_hold_up_no_fresh_message(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    small = settings.model_copy(update={"relay_page_size": 5, "relay_poll_max_ms": 10})
    await run(engine, INSERT.format(name="old", count=400))
    await Relay(small.model_copy(update={"relay_page_size": 500}), mappings, engine, MemorySink()).drain()
    await run(engine, "UPDATE crossfeed.slot SET seen = '3:3:', target = NULL, position = 0 WHERE slot < 8")

    class Slow(MemorySink):
        async def write(self, *items: Any, **how: Any) -> list[Outcome]:
            await asyncio.sleep(0.02)
            return await super().write(*items, **how)

    sink, stop = Slow(), asyncio.Event()
    relay = Relay(small, mappings, engine, sink)
    running = asyncio.ensure_future(relay.run(stop))
    await until(lambda: len(sink.history) > 5)
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT n FROM generate_series(1, 100) n"
            " WHERE crossfeed.slot_of('Account', '[\"new' || n || '\"]', 'new' || n) >= 8 LIMIT 10"
        )
        fresh = [f"new{n}" for (n,) in map(tuple, found)]
    await run(engine, *[f"INSERT INTO accounts (id) VALUES ('{name}')" for name in fresh])
    await until(lambda: set(fresh) <= {identity.id for identity in sink.states})
    behind = sum(identity.id.startswith("old") for identity in sink.states)
    stop.set()
    await running
    assert behind < 150  # of about two hundred


async def test_the_age_of_the_oldest_unsent_message_grows_while_nothing_can_be_sent(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = Gated()
    relay, stop = Relay(settings, mappings, engine, sink), asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    await until(lambda: relay.health().pass_age_s is not None)
    assert relay.health().oldest_unsent_s == 0
    await run(engine, INSERT.format(name="a", count=1))
    await until(lambda: sink.waiting == 1)
    await asyncio.sleep(0.2)
    stuck = relay.health()
    assert stuck.oldest_unsent_s is not None
    assert stuck.oldest_unsent_s >= 0.2
    assert len(stuck.slots) == 32
    assert 0 < stuck.lease_left_s <= settings.relay_lease_s
    sink.gate.release()
    await until(lambda: relay.health().oldest_unsent_s == 0)
    stop.set()
    await running
    assert relay.health().slots == ()
    assert relay.health().lease_left_s == 0
