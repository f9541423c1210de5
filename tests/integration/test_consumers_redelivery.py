"""Whatever comes again, from wherever and however often, a handler has each event once and no event is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase as Stage
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from core.errors import TransientError
from functions.letters import Act
from tests.integration.consumer_steps import DIARY, Left, Room, Said, document, no_trouble

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from changefeed.consumers import Consumers
    from core.content import Document
    from core.handlers import Received
    from core.settings import Settings

TABLES = ("crossfeed.inbox", "crossfeed.inbox_mark", "crossfeed.inbox_parked", "crossfeed.dead_letter", "diary")
READERS = 2
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from("ab")),
        st.tuples(st.just("say"), st.sampled_from("ab")),
        st.tuples(st.just("read"), st.integers(0, READERS - 1)),
        st.tuples(st.just("read"), st.integers(0, READERS - 1)),
        st.tuples(st.just("crash"), st.integers(0, READERS - 1)),
        st.tuples(st.just("read at once"), st.none()),
        st.tuples(st.just("from the beginning"), st.integers(0, READERS - 1)),
        st.tuples(st.just("break"), st.sampled_from([ValueError("no"), TransientError("busy"), None])),
        st.tuples(st.just("retry"), st.integers(0, READERS - 1)),
        st.tuples(st.just("retry at once"), st.none()),
        st.tuples(st.just("replay"), st.none()),
        st.tuples(st.just("forget"), st.none()),
        st.tuples(st.just("touch"), st.integers(0, 20)),
    ),
    min_size=8,
    max_size=30,
)


@pytest.fixture
async def room(engine: AsyncEngine, settings: Settings) -> Room:
    made = Room(engine, settings.model_copy(update={"consumer_attempts": 2}))
    await made.run(DIARY)
    return made


async def crash(connection: AsyncConnection) -> None:
    raise ZeroDivisionError


@dataclass
class World:
    """A feed whose documents move to its end when they are touched, and readers who each are somewhere in it."""

    room: Room
    feed: list[Document] = field(default_factory=list)
    places: list[int] = field(default_factory=lambda: [0] * READERS)
    readers: list[Consumers] = field(default_factory=list)
    wrong: Exception | None = None
    clock: int = 1_000
    out_of_order: set[str] = field(default_factory=set)

    async def trouble(self, name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if self.wrong is not None and name == "one" and received.event.number % 3 == 0:
            raise self.wrong

    async def act(self, action: str, which: Any) -> None:  # noqa: C901 - one case per action
        self.clock += 1
        match action:
            case "say":
                self.feed.append(document(self.clock, which, ts=self.clock))
            case "read":
                await self.read(which)
            case "crash":
                with pytest.raises(ZeroDivisionError):
                    await self.room.apply(*self.page(which), by=self.readers[which], acknowledge=crash)
            case "read at once":
                await asyncio.gather(*map(self.read, range(READERS)))
            case "from the beginning":
                self.places[which] = 0
            case "break":
                self.wrong = which
            case "retry":
                await self.retry(which)
            case "retry at once":
                await asyncio.gather(*map(self.retry, range(READERS)))
            case "replay":
                await self.replay()
            case "forget":
                await self.room.forget()
            case "touch":
                self.touch(which)

    def page(self, reader: int) -> list[Document]:
        return self.feed[self.places[reader] : self.places[reader] + 4]

    async def read(self, reader: int) -> None:
        page = self.page(reader)
        await self.room.apply(*page, by=self.readers[reader])
        self.places[reader] += len(page)

    async def retry(self, reader: int) -> None:
        await self.room.retry(self.readers[reader])

    def touch(self, which: int) -> None:
        """Write a document again, as it is: it leaves its place in the feed."""
        if self.feed:
            index = which % len(self.feed)
            touched = self.feed.pop(index)
            self.out_of_order.add(touched["id"])
            self.feed.append({**touched, "_ts": self.clock})
            self.places = [place - (index < place) for place in self.places]

    async def replay(self) -> None:
        """Do as an operator does: what is in doubt and is in the diary was handled, everything else is tried again."""
        letters = await self.room.rows("SELECT number, reference, attempts FROM crossfeed.dead_letter")
        written = {f"{name}:{of}-{said}" for name, of, said in await self.diary()}
        handled = [number for number, reference, attempts in letters if attempts == 0 and reference in written]
        self.out_of_order |= {reference.split(":")[1] for _, reference, _ in letters}
        await self.room.act(Act.DISCARD, numbers=handled)
        await self.room.act(Act.REPLAY)

    async def diary(self) -> list[tuple[Any, ...]]:
        return await self.room.rows("SELECT handler, subject, said FROM diary ORDER BY place")

    async def settle(self) -> None:
        """Cure everything and let all readers come to the end."""
        self.wrong = None
        for reader in range(READERS):
            while self.page(reader):
                await self.read(reader)
        for _ in range(2):
            await self.retry(0)
            await self.replay()
            await self.retry(1)


async def check(room: Room, actions: list[tuple[str, Any]]) -> None:
    await room.run("; ".join(f"DELETE FROM {table}" for table in TABLES))
    world = World(room)
    room.trouble = world.trouble
    world.readers = [room.another() for _ in range(READERS)]
    for action, which in actions:
        await world.act(action, which)
    await world.settle()
    assert await room.parked() == await room.letters() == []
    diary = await world.diary()
    events = {(name, *each["id"].split("-")) for each in world.feed for name in room.names}
    assert Counter((name, of, str(said)) for name, of, said in diary) == Counter(events)
    orderly = [entry for entry in diary if f"{entry[1]}-{entry[2]}" not in world.out_of_order]
    for name, of in {entry[:2] for entry in orderly}:
        said = [number for *chain, number in orderly if chain == [name, of]]
        assert said == sorted(said)


@given(actions=ACTIONS)
@examples(max_examples=15, phases=[Stage.explicit, Stage.reuse, Stage.generate])  # shrinking would take minutes
async def test_each_event_is_handled_once_and_in_order_whatever_happens(
    room: Room, actions: list[tuple[str, Any]]
) -> None:
    await check(room, actions)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@given(actions=ACTIONS)
@examples(max_examples=1000)
async def test_each_event_is_handled_once_and_in_order_whatever_happens_many_times(
    room: Room, actions: list[tuple[str, Any]]
) -> None:
    await check(room, actions)


async def test_events_that_the_inbox_has_forgotten_are_known_by_their_place_in_the_log(room: Room) -> None:
    await room.apply(document(1), document(2), document(3, "b"))
    await room.forget()
    assert await room.rows("SELECT * FROM crossfeed.inbox") == []
    assert await room.rows("SELECT handler, subject, sequence FROM crossfeed.inbox_mark ORDER BY 1, 2") == [
        (name, f"Account/{of}", sequence) for name in ("one", "two") for of, sequence in (("a", 2), ("b", 3))
    ]
    await room.apply(document(1), document(2), document(3, "b"), document(4))
    assert await room.said() == [1, 2, 4]
    assert await room.said("one", "b") == [3]
    assert await room.letters() == []


async def test_a_late_event_does_not_lower_the_mark(room: Room) -> None:
    await room.apply(document(5))
    await room.apply(document(3, ts=2_000))
    await room.run("UPDATE crossfeed.inbox SET at = at - interval '100 days' WHERE sequence = 5")
    await room.idle()
    await room.forget()
    await room.apply(document(5), document(3, ts=2_000))
    assert await room.said() == [5, 3]
    assert await room.letters() == []


async def test_an_old_event_in_a_new_document_is_in_doubt_and_neither_handled_nor_dropped(room: Room) -> None:
    await room.apply(document(2))
    await room.forget()
    await room.apply(document(2, ts=2_000), document(1, ts=2_000), document(3))
    assert await room.said() == [2, 3]
    assert [reference for reference, *_ in await room.letters()] == ["one:a-2", "two:a-2", "one:a-1", "two:a-1"]
    assert all("it may have been handled before" in reason for reason in await room.reasons())
    await room.apply(document(2, ts=2_000))
    assert len(await room.letters()) == 4
    await room.act(Act.DISCARD, numbers=[1, 2])
    await room.act(Act.REPLAY)
    await room.idle()
    assert await room.said() == [2, 3, 1]


async def test_what_is_parked_or_a_letter_outlives_the_memory_of_the_inbox(room: Room) -> None:
    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        raise ValueError(name)

    room.trouble = trouble
    await room.apply(document(1, "b"), by=room.another(consumer_attempts=1))
    await room.apply(document(1), document(2))
    await room.forget()
    room.trouble = no_trouble
    await room.apply(document(1), document(2), document(1, "b"))
    assert await room.said() == []
    await room.retry()
    assert await room.said() == [1, 2]
    assert await room.said("one", "b") == []


async def test_two_documents_of_one_event_are_one_event(room: Room) -> None:
    await room.apply(document(1), document(1, ts=2_000), document(2), document(1, ts=3_000, data={"number": 7}))
    await room.apply(document(1, ts=4_000, sequence=f"{9:020}"))
    assert await room.said() == [1, 2]
    assert room.consumers.counts()["repeated"] == 6


async def test_an_id_that_two_aggregates_have_is_of_two_events(room: Room) -> None:
    await room.apply(document(1))
    await room.apply(document(1, "b", id="a-1"), document(2, "b", id="a-2"))
    await room.apply(document(2))
    assert await room.said("one", "a") == await room.said("one", "b") == [1, 2]


async def test_a_page_waits_for_another_process_that_has_an_aggregate_of_it(room: Room) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if received.event.number == 1:
            entered.set()
            await leave.wait()

    room.trouble = trouble
    first = asyncio.ensure_future(room.apply(document(1)))
    await entered.wait()
    second = asyncio.ensure_future(room.apply(document(2), by=room.another()))
    await room.apply(document(3, "b"), by=room.another())
    await asyncio.sleep(0.1)
    assert not second.done()
    leave.set()
    await asyncio.gather(first, second)
    assert await room.said() == [1, 2]


async def test_a_page_that_nobody_handles_ends_as_well_when_its_process_is_stopped(room: Room) -> None:
    async def acknowledge(connection: AsyncConnection) -> None:
        result = await connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout")
        assert result.scalar_one() != "0"

    await room.apply(document(1, event=Left()), acknowledge=acknowledge)


async def test_a_process_that_sleeps_in_a_handler_loses_its_transaction_to_the_next(room: Room) -> None:
    """Its connection stays open and silent, as that of a stopped process does."""
    asleep = room.another(consumer_timeout_s=0.3)
    asleep._idle_s = 0.1
    entered = asyncio.Event()

    async def sleep(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if not entered.is_set():
            entered.set()
            await asyncio.sleep(0.25)

    room.trouble = sleep
    zombie = asyncio.ensure_future(room.apply(document(1), by=asleep))
    await entered.wait()
    await room.apply(document(1))
    await zombie
    assert await room.said("one") == await room.said("two") == [1]
