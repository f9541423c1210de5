"""Many relays share the slots: one dies, sleeps, stops or comes, and nothing is lost, late, or sent by who lost it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.postgres.leases import LeaseLostError
from outbox.cursor import load_groups
from outbox.relay import Relay
from tests.integration.relay_steps import MemorySink, falls_silent, make_primary, run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.publish import Publish
    from core.mappings import Mappings
    from core.settings import Settings
    from outbox.cursor import Cursor

LEASE_S = 1.0
SLOTS = 32
INSERT = "INSERT INTO accounts (id) SELECT '{name}' || n FROM generate_series(1, {count}) n"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"relay_lease_s": LEASE_S, "relay_poll_max_ms": 20, "relay_page_size": 20})


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run relays that a test may cancel, as SIGKILL does; at the end the others are told to stop."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
    try:
        yield tasks
    finally:
        stop.set()
        await asyncio.gather(*tasks, return_exceptions=True)


def holding(relay: Relay, slots: int) -> Callable[[], bool]:
    return lambda: len(relay.leases.held) == slots


async def killed(relay: Relay, task: asyncio.Task[None]) -> None:
    """End a relay without a word to anybody."""

    async def nothing() -> None:
        pass

    relay.leases.renew_if_due = nothing  # type: ignore[method-assign]
    relay.leases.hand_over = nothing  # type: ignore[method-assign]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_a_dead_relay_held_is_delivered_by_others_within_two_lease_times(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = MemorySink()
    first, second = (Relay(settings, mappings, engine, sink) for _ in range(2))
    async with running(first, second) as (task, _):
        await until(lambda: holding(first, 16)() and holding(second, 16)())
        await killed(first, task)
        died_at = time.monotonic()
        await run(engine, INSERT.format(name="a", count=100))
        await until(lambda: len(sink.states) == 100)
        assert time.monotonic() - died_at < 2 * LEASE_S
        assert holding(second, SLOTS)()


async def test_a_relay_that_is_told_to_stop_hands_over_at_once(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    patient = settings.model_copy(update={"relay_lease_s": 6.0})
    sink = MemorySink()
    first, second = (Relay(patient, mappings, engine, sink) for _ in range(2))
    stop = asyncio.Event()
    stopping = asyncio.create_task(first.run(stop))
    await until(holding(first, SLOTS))
    async with running(second):
        await until(lambda: holding(first, 16)() and holding(second, 16)())
        stop.set()
        await stopping
        stopped_at = time.monotonic()
        await until(holding(second, SLOTS))
        assert time.monotonic() - stopped_at < 1
    assert holding(second, 0)()


@pytest.mark.parametrize("after", [3, 10], ids=["in the middle of a page", "at its end"])
async def test_a_relay_whose_lease_has_ended_sends_nothing_and_moves_no_cursor(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, after: int
) -> None:
    await make_primary(engine)
    await run(engine, INSERT.format(name="a", count=10))
    now = [0.0]
    sent: list[str] = []

    def sleep(item: Publish) -> None:
        sent.append(item.identity.id)
        if len(sent) == after:
            now[0] += LEASE_S

    zombie = Relay(settings, mappings, engine, MemorySink(before=sleep), clock=lambda: now[0])
    before = await cursors(engine)
    with pytest.raises(LeaseLostError):
        await zombie.run_once()
    assert len(sent) == after
    assert await cursors(engine) == before
    await falls_silent(engine, zombie)
    last = MemorySink()
    await Relay(settings, mappings, engine, last).drain()
    assert len(last.states) == 10


async def cursors(engine: AsyncEngine) -> set[Cursor]:
    async with engine.connect() as connection:
        return {group.cursor for group in await load_groups(connection)}


async def test_a_relay_that_lost_its_slots_while_it_sent_moves_no_cursor_though_its_clock_stood_still(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, INSERT.format(name="a", count=10))
    zombie = Relay(settings, mappings, engine, sink := MemorySink(), clock=lambda: 0.0)
    another = Relay(settings, mappings, engine, MemorySink())
    taken = asyncio.Event()

    async def take() -> None:
        await falls_silent(engine, zombie)
        await another.run_once()
        await run(engine, "UPDATE crossfeed.slot SET seen = '3:3:', target = NULL, position = 0")  # a replay, say
        taken.set()

    write = sink.write

    async def write_slowly(*items: object, **how: object) -> object:
        outcomes = await write(*items, **how)  # type: ignore[arg-type]
        await take()
        return outcomes

    sink.write = write_slowly  # type: ignore[assignment, method-assign]
    with pytest.raises(LeaseLostError):
        await zombie.run_once()
    assert taken.is_set()
    assert {str(cursor.seen) for cursor in await cursors(engine)} == {"3:3:"}


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["come", "stop", "kill", "write", "write"]), st.integers(0, 2)),
        min_size=4,
        max_size=12,
    )
)
@hypothesis_settings(max_examples=3)
async def test_rebalancing_loses_nothing(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, steps: list[tuple[str, int]]
) -> None:
    async with engine.connect() as connection:
        phase = (await connection.exec_driver_sql("SELECT phase FROM crossfeed.phase")).scalar_one()
    if phase == 0:
        await make_primary(engine)
    await run(engine, "DELETE FROM accounts")
    quick = settings.model_copy(update={"relay_lease_s": 0.3})
    sink = MemorySink()
    living: dict[int, tuple[Relay, asyncio.Event, asyncio.Task[None]]] = {}
    written = 0
    for what, number in [*steps, ("come", 0), ("write", 0)]:
        if what == "write":
            await run(engine, INSERT.format(name=f"w{written}-", count=50))
            written += 1
        elif what == "come" and number not in living:
            relay, stop = Relay(quick, mappings, engine, sink), asyncio.Event()
            living[number] = relay, stop, asyncio.create_task(relay.run(stop))
        elif what in {"stop", "kill"} and number in living:
            relay, stop, task = living.pop(number)
            stop.set()
            await (killed(relay, task) if what == "kill" else task)
        await asyncio.sleep(0.05)
    expected = {f"w{n}-{m}" for n in range(written) for m in range(1, 51)}
    await until(lambda: expected <= {identity.id for identity in sink.states})
    for _, stop, task in living.values():
        stop.set()
        await task


async def test_groups_that_stand_apart_stand_together_once_they_have_caught_up(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, INSERT.format(name="a", count=100))
    apart = Relay(settings, mappings, engine, sink := MemorySink())
    await apart.run_once()  # one page of twenty
    await apart.leases.hand_over()
    await run(
        engine,
        "UPDATE crossfeed.slot SET seen = '3:3:', target = NULL, position = 0 WHERE slot < 5",
        "UPDATE crossfeed.slot SET seen = pg_current_snapshot(), target = NULL, position = 0 WHERE slot IN (5, 6, 7)",
        INSERT.format(name="b", count=100),
    )
    relay = Relay(settings, mappings, engine, sink)
    async with running(relay):
        await until(lambda: sum(identity.id.startswith("b") for identity in sink.states) == 100)
        await until(lambda: len(relay._rounds.streams) == 1)
        await run(engine, INSERT.format(name="c", count=10))
        await until(lambda: sum(identity.id.startswith("c") for identity in sink.states) == 10)
