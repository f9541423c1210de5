"""Small pages travel beside each other, and neither the order of a document nor the place in the log suffers by it."""

from __future__ import annotations

import asyncio
import gc
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.publish import Outcome, Publish, Refused, Written
from core.errors import StoreUnavailableError
from outbox import cursor, place, stream
from outbox.relay import Relay
from tests.integration.parking_steps import Parking
from tests.integration.relay_steps import MemorySink, falls_silent, make_primary, run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.event_sink import EventMessage, EventOutcome
    from core.mappings import Mappings
    from core.settings import Settings

PUT = """
    INSERT INTO accounts (id, email) SELECT id, 'x' FROM unnest(string_to_array('{0}', '+')) AS id
    ON CONFLICT (id) DO UPDATE SET email = accounts.email || 'x'
"""
SAY = """
    INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, event_id, event)
    VALUES (crossfeed.event_slot_of('Account', '["{0}"]', '{0}'), 'Account', '["{0}"]', '{0}', 2, 1, false, '{0}-{1}',
        '{{}}')
"""


@dataclass
class Held:
    """What is held up at the gates of some names, and what is answered for some."""

    gates: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    answers: dict[str, Outcome | Exception] = field(default_factory=dict)
    parked: list[tuple[str, int]] = field(default_factory=list)  # what was asked for, and how much was parked then

    async def answer(self, name: str, engine: AsyncEngine | None) -> Any:
        self.parked.append((name, len(await Parking(engine).parked()) if engine is not None else 0))
        if name in self.gates:
            await self.gates[name].wait()
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begun(self, name: str) -> int:
        return [one for one, _ in self.parked].count(name)


@dataclass
class Tower(MemorySink, Held):
    """A sink that holds some documents up."""

    engine: AsyncEngine | None = None

    async def _one(
        self, item: Publish, check: Callable[[], None], on_outcome: Callable[[Publish, Outcome], None]
    ) -> Outcome:
        answer: Outcome | None = await self.answer(item.identity.id, self.engine)
        if answer is None:
            return await super()._one(item, check, on_outcome)
        on_outcome(item, answer)
        return answer

    @property
    def names(self) -> list[str]:
        return [item.identity.id for item in self.history]


@dataclass
class EventTower(Held):
    """Where events go; holds some up."""

    written: list[str] = field(default_factory=list)

    async def write(self, events: Sequence[EventMessage], *, check: Callable[[], None]) -> list[EventOutcome]:
        outcomes: list[EventOutcome] = []
        for event in events:
            answer: Refused | None = await self.answer(event.event_id, None)
            check()
            if answer is None:
                self.written.append(event.event_id)
            outcomes.append(answer or Written("e"))
        return outcomes


@pytest.fixture
def quick(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(stream, "RETRY_S", 0.05)
    return settings.model_copy(update={"relay_poll_max_ms": 5, "relay_retry_first_s": 100.0})


@asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    try:
        await until(lambda: relay._rounds.passed_at is not None)
        yield
    finally:
        stop.set()
        await running


def flying(relay: Relay) -> int:
    return sum(len(one._flights._flights) for one in relay._rounds.streams)


async def put(engine: AsyncEngine, relay: Relay, *names: str) -> None:
    """Write documents, each in a page of its own, but for those joined by a plus."""
    for name in names:
        before = flying(relay)
        await run(engine, PUT.format(name))
        await until(lambda before=before: flying(relay) > before)  # type: ignore[misc]


async def is_parked(engine: AsyncEngine, *names: str) -> bool:
    return tuple(name for name, *_ in await Parking(engine).parked()) == names


async def test_fresh_pages_overtake_a_slow_one_but_neither_one_of_its_document_nor_one_behind_that(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = Tower(gates={"slow": asyncio.Event()}, answers={"dead": Refused(400, "no")})
    relay = Relay(quick.model_copy(update={"relay_attempts": 1}), mappings, engine, sink)
    async with relaying(relay):
        await run(engine, PUT.format("dead"))
        await until(lambda: relay.stats.dead_lettered == 1)  # it is never due again, so nobody waits for it
        await put(engine, relay, "slow", "slow", "quick", "slow+held", "held", "quick")
        await until(lambda: sink.names == ["quick", "quick"])
        await asyncio.sleep(0.05)
        assert sink.begun("slow") == 1
        sink.gates["slow"].set()
        await until(lambda: flying(relay) == 0)
    for name, last in [("slow", 3), ("held", 2), ("quick", 2)]:
        assert [item.stamp.version for item in sink.history if item.identity.id == name] == [*range(1, last + 1)]
    assert await Relay(quick, mappings, engine, sink).drain() == 0


async def test_a_later_state_of_a_refused_document_is_sent_once_the_refusal_is_recorded(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = Tower(gates={"slow": asyncio.Event()}, answers={"d": Refused(400, "no")}, engine=engine)
    relay = Relay(quick, mappings, engine, sink)
    async with relaying(relay):
        await put(engine, relay, "slow", "d")
        await until(lambda: sink.begun("d") == 1)
        await put(engine, relay, "d")
        await asyncio.sleep(0.05)
        assert sink.begun("d") == 1  # what has failed is known here alone
        sink.gates["slow"].set()
        sink.answers.clear()
        await until(lambda: "d" in sink.names)
        assert sink.parked[-1] == ("d", 1)
    assert await Parking(engine).parked() == []


async def test_later_events_wait_behind_a_refused_one_of_their_aggregate_whatever_else_overtakes_it(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    target = EventTower(gates={"slow-1": asyncio.Event()}, answers={"a-1": Refused(400, "no")})
    relay = Relay(quick, mappings, engine, MemorySink(), events=target)
    async with relaying(relay):
        for number, said in enumerate([("slow", 1), ("a", 1), ("a", 2), ("b", 1), ("a", 3)], 1):
            await run(engine, SAY.format(*said))
            await until(lambda number=number: flying(relay) == number)  # type: ignore[misc]
        await until(lambda: target.written == ["b-1"])
        await asyncio.sleep(0.05)
        assert target.begun("a-2") == target.begun("a-3") == 0
        target.gates["slow-1"].set()
        await until(lambda: is_parked(engine, "a", "a", "a"))
        assert target.written == ["b-1", "slow-1"]
        target.answers.clear()
        await Parking(engine).all_due()
        await until(lambda: target.written[2:] == ["a-1", "a-2", "a-3"])


async def test_what_failed_is_read_again_with_all_behind_it_and_the_stored_cursor_stays_before_it(
    quick: Settings, engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_primary(engine)
    monkeypatch.setattr(place, "FLUSH_S", 0.0)
    sink = Tower(gates={"slow": asyncio.Event()}, answers={"bad": StoreUnavailableError("down")})
    relay = Relay(quick, mappings, engine, sink)
    async with relaying(relay):
        await put(engine, relay, "slow", "bad", "bad", "after")
        await until(lambda: sink.names == ["after"])
        assert sink.begun("bad") == 1
        sink.gates["slow"].set()
        await until(lambda: sink.begun("bad") > 2)
        await until(lambda: sink.names == ["after", "slow"])
        await asyncio.sleep(0.05)
        successor = Tower()
        heir = Relay(quick, mappings, engine, successor)
        await falls_silent(engine, relay)
        assert await heir.drain() >= 2
        assert {"bad", "after"} <= set(successor.names)
        sink.answers.clear()
    await heir.drain()
    assert {identity.id for identity in successor.states} == {"bad", "after"}


async def test_all_arrives_through_the_same_relay_once_what_failed_works_again(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = Tower(gates={"slow": asyncio.Event()}, answers={"bad": StoreUnavailableError("down")})
    sink.answers["d"] = Refused(400, "no")
    relay = Relay(quick, mappings, engine, sink)
    async with relaying(relay):
        await put(engine, relay, "slow", "bad", "d", "d", "after")
        sink.gates["slow"].set()
        await until(lambda: sink.begun("bad") > 1)
        await run(engine, PUT.format("last"))
        sink.answers.clear()
        await until(lambda: sorted({*sink.names} - {"d"}) == ["after", "bad", "last", "slow"])
        assert len([name for name in sink.names if name != "d"]) == 4  # what had arrived was not sent a second time
    assert await Relay(quick, mappings, engine, sink).drain() == 0


async def test_a_failure_that_cannot_be_recorded_is_followed_by_nothing_of_its_document(
    quick: Settings, engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_primary(engine)
    sink = Tower(gates={"slow": asyncio.Event()}, answers={"d": Refused(400, "no")}, engine=engine)
    relay = Relay(quick, mappings, engine, sink)
    failing = [True]

    async def advance(connection: Any, group: Any, to: Any) -> bool:
        if failing and "d" in [identity for identity, _ in sink.parked]:
            failing.clear()
            msg = "Postgres is gone for a moment"
            raise StoreUnavailableError(msg)
        return await cursor.advance(connection, group, to)

    async with relaying(relay):
        await put(engine, relay, "slow", "d")
        await until(lambda: sink.begun("d") == 1)
        await put(engine, relay, "d")
        monkeypatch.setattr(place, "advance", advance)
        sink.gates["slow"].set()
        sink.answers.clear()
        await until(lambda: "d" in sink.names)
    assert not failing
    assert [parked for name, parked in sink.parked if name == "d"] == [0, 1]


async def test_a_lease_lost_with_several_pages_under_way_ends_all_and_another_relay_sends_them(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = Tower(gates={name: asyncio.Event() for name in "abc"})
    now = [0.0]
    relay = Relay(quick, mappings, engine, sink, clock=lambda: now[0] + asyncio.get_running_loop().time())
    async with relaying(relay):
        await put(engine, relay, "a", "b", "c")
        await falls_silent(engine, relay)
        now[0] += 2 * quick.relay_lease_s
        for gate in sink.gates.values():
            gate.set()
        other = Tower()
        assert await Relay(quick, mappings, engine, other).drain() == 3
    assert set(other.names) == {"a", "b", "c"}
    assert sink.names == []


async def test_pages_that_are_broken_off_leave_no_task_and_no_warning_and_are_sent_by_the_next_relay(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = Tower(gates={name: asyncio.Event() for name in "abcdefg"})
    before = asyncio.all_tasks()
    relay = Relay(quick, mappings, engine, sink)
    running = asyncio.ensure_future(relay.run(asyncio.Event()))
    await until(lambda: relay._rounds.passed_at is not None)
    await put(engine, relay, *"aabcdefg")  # as many as may be: the next step waits for one of them
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (asyncio.all_tasks(), flying(relay)) == (before, 0)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    gc.collect()  # what was never awaited or closed would warn here
    other = Tower()
    await Relay(quick, mappings, engine, other).drain()
    assert set(other.names) == set("abcdefg")
