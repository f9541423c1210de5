"""A relay meets what cannot be delivered: it comes back to it, gives it up in the end, and everything else flows on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.event_sink import EventMessage, EventOutcome, Held
from core.cosmos.publish import Outcome, Postponed, Publish, Refused, Written
from core.phases import Phase
from core.postgres.dead_letter_search import Selection, count
from functions.letters import Act, act_on
from outbox.relay import Relay
from tests.integration.parking_steps import Parking, account
from tests.integration.relay_steps import MemorySink, letters, make_primary, run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings

PUT = "INSERT INTO accounts (id, email) SELECT 'acc-' || n, 'x' FROM generate_series(1, 3) n"
CHANGE = "UPDATE accounts SET email = email || 'y' WHERE id = 'acc-1'"


@dataclass
class FussySink(MemorySink):
    """Answers for a document what it is told; `asked` counts how often it was tried."""

    answers: dict[Identity, Outcome] = field(default_factory=dict)
    asked: int = 0

    async def _one(
        self, item: Publish, check: Callable[[], None], on_outcome: Callable[[Publish, Outcome], None]
    ) -> Outcome:
        if item.identity in self.answers:
            self.asked += 1
            on_outcome(item, self.answers[item.identity])
            return self.answers[item.identity]
        return await super()._one(item, check, on_outcome)


@dataclass
class FussyEvents:
    """A container of events in memory; refuses what it is told, and what follows in the same aggregate waits."""

    refused: set[str] = field(default_factory=set)
    written: list[str] = field(default_factory=list)

    async def write(self, events: Sequence[EventMessage], **_: Any) -> list[EventOutcome]:
        stuck: set[Identity] = set()
        outcomes: list[EventOutcome] = []
        for message in events:
            await asyncio.sleep(0)
            if message.identity in stuck:
                outcomes.append(Held())
            elif message.event_id in self.refused:
                stuck.add(message.identity)
                outcomes.append(Refused(400, "refused by the test"))
            else:
                self.written.append(message.event_id)
                outcomes.append(Written("e"))
        return outcomes


@pytest.fixture
def quick(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("outbox.stream.RETRY_S", 0.05)
    return settings.model_copy(
        update={
            "relay_attempts": 3,
            "relay_retry_first_s": 0.05,
            "relay_retry_max_s": 0.1,
            "relay_poll_max_ms": 20,
        }
    )


@asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def test_a_refused_document_is_tried_again_and_given_up_while_the_others_arrive(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = FussySink(answers={account(1): Refused(400, "refused by the test")})
    await run(engine, PUT)
    relay = Relay(quick, mappings, engine, sink)
    async with relaying(relay):
        await until(lambda: account(2) in sink.states and account(3) in sink.states)
        await until(lambda: _is(letters(engine), [("to_cosmos", "refused", "acc-1", 3, "refused by the test")]))
        assert sink.asked == 3
        assert await Parking(engine).parked() == []
        await asyncio.sleep(0.1)
        assert [stream._place.reports for stream in relay._rounds.streams] == [[]]  # idle, nothing piles up in memory
        sink.answers.clear()
        async with engine.connect() as connection:
            found = await count(connection, Selection())
        await act_on(Act.REPLAY, engine, Selection(), found.at, None, _none, dry_run=False)
        await until(lambda: account(1) in sink.states)
        await until(lambda: _is(Parking(engine).parked(), []))
    assert await letters(engine) == []


async def test_a_newer_state_that_arrives_ends_the_waiting_of_the_older_one(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = FussySink(answers={account(1): Refused(400, "refused by the test")})
    await run(engine, PUT)
    slow = settings.model_copy(update={"relay_retry_first_s": 100.0})
    async with relaying(Relay(slow, mappings, engine, sink)):
        await until(lambda: sink.asked == 1)
        sink.answers.clear()
        await run(engine, CHANGE)
        await until(lambda: account(1) in sink.states)
        await until(lambda: _is(Parking(engine).parked(), []))
    assert sink.states[account(1)].stamp.version == 2


async def test_what_infrastructure_holds_up_is_never_given_up_and_arrives_in_the_end(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = FussySink(answers={account(1): Postponed("its partition is down")})
    await run(engine, PUT)
    async with relaying(Relay(quick, mappings, engine, sink)):
        await until(lambda: sink.asked > quick.relay_attempts)
        assert [(id_, attempts) for id_, attempts, _ in await Parking(engine).parked()] == [("acc-1", 0)]
        sink.answers.clear()
        await until(lambda: account(1) in sink.states)
        await until(lambda: _is(Parking(engine).parked(), []))
    assert await letters(engine) == []


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_COSMOS_READ, Phase.POSTGRES_ONLY])
async def test_what_is_parked_is_not_sent_while_cosmos_does_not_follow_postgres(
    quick: Settings, engine: AsyncEngine, mappings: Mappings, phase: Phase
) -> None:
    await make_primary(engine)
    sink = FussySink(answers={account(1): Postponed("its partition is down")})
    await run(engine, PUT)
    async with relaying(Relay(quick, mappings, engine, sink)):
        await until(lambda: sink.asked > 0)
        await make_primary(engine, phase)
        sink.answers.clear()
        await Parking(engine).all_due()
        await asyncio.sleep(0.5)
        assert account(1) not in sink.states
        await make_primary(engine, Phase.DUAL_WRITE_POSTGRES_READ)
        await until(lambda: account(1) in sink.states)


async def test_later_events_wait_for_a_refused_one_and_flow_in_order_once_it_is_given_up(
    quick: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    events = FussyEvents(refused={"1-3"})
    small = quick.model_copy(update={"relay_page_size": 5})
    async with relaying(Relay(small, mappings, engine, MemorySink(), events=events)):
        await record(engine, range(1, 11))
        await until(lambda: len(events.written) == 9 + 10)
        await until(lambda: _is(letters(engine), [("to_cosmos", "event", "acc-1", 3, "refused by the test")]))
        events.refused.clear()
        async with engine.connect() as connection:
            found = await count(connection, Selection())
        await act_on(Act.REPLAY, engine, Selection(), found.at, None, _none, dry_run=False)
        await until(lambda: "1-3" in events.written)
        await until(lambda: _is(Parking(engine).parked(), []))
    assert [event_id for event_id in events.written if event_id.startswith("2-")] == [f"2-{n}" for n in range(1, 11)]
    assert [event_id for event_id in events.written if event_id.startswith("1-")] == [
        *(f"1-{n}" for n in range(1, 11) if n != 3),
        "1-3",
    ]


async def record(engine: AsyncEngine, which: range) -> None:
    """Record events of two accounts, each in a transaction of its own."""
    for number in which:
        await run(
            engine,
            "INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, event_id, event)"
            " SELECT crossfeed.event_slot_of('Account', key, id), 'Account', key, id, 2, 1, false,"
            f" n || '-{number}', '{{}}'"
            """ FROM (SELECT n, '["acc-' || n || '"]' AS key, 'acc-' || n AS id FROM generate_series(1, 2) n) a""",
        )


async def _none() -> Any:
    raise AssertionError("nothing had to be read from Cosmos DB")


async def _is(found: Any, wanted: object) -> bool:
    return bool(await found == wanted)
