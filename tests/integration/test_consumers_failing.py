"""An event that a handler fails at is tried again, holds back its aggregate for that handler alone, and then dies."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.event import listen

from changefeed.inbox_chains import LONGEST_CHAIN
from core.errors import AlreadyExistsError, ConcurrencyError, PrimaryMovedError, StoreUnavailableError, TransientError
from core.identity import Identity
from core.postgres import dead_letters
from core.postgres.dead_letters import DeadLetter, Direction
from core.postgres.rights import Process, rights_of
from functions.letters import Act
from tests.integration.consumer_steps import DIARY, Room, Said, document, executing, failing_at, no_trouble
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.handlers import Received
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.integration.consumer_steps import Trouble


@pytest.fixture
async def room(engine: AsyncEngine, settings: Settings) -> Room:
    made = Room(engine, settings.model_copy(update={"consumer_attempts": 3, "consumer_timeout_s": 0.2}))
    await made.run(DIARY)
    return made


async def test_an_event_that_fails_holds_back_its_aggregate_for_that_handler_alone(room: Room) -> None:
    room.trouble = failing_at(1)
    await room.apply(document(1), document(2), document(4, "c"))
    await room.apply(document(3), document(5, "c"))
    assert await room.said("one") == []
    assert await room.said("two") == [1, 2, 3]
    assert await room.said("one", "c") == [4, 5]
    assert await room.parked() == [("one", "a-1", 1), ("one", "a-2", 0), ("one", "a-3", 0)]
    await room.idle()  # its time has not come
    await room.retry()
    assert await room.parked() == [("one", "a-1", 2), ("one", "a-2", 0), ("one", "a-3", 0)]
    room.trouble = no_trouble
    await room.retry()
    assert await room.said("one") == [1, 2, 3]
    assert await room.rows("SELECT attempt FROM diary WHERE (handler, subject) = ('one', 'a')") == [(3,), (1,), (1,)]
    assert await room.parked() == await room.letters() == []


async def test_a_second_event_that_fails_becomes_the_head_of_its_chain(room: Room) -> None:
    room.trouble = failing_at(1)
    await room.apply(document(1), document(2), document(3))
    room.trouble = failing_at(2)
    await room.retry()
    assert await room.said() == [1]
    assert await room.parked() == [("one", "a-2", 1), ("one", "a-3", 0)]
    room.trouble = no_trouble
    await room.retry()
    assert await room.said() == [1, 2, 3]


async def test_a_chain_that_another_process_tries_is_left_to_it(room: Room) -> None:
    room.trouble = failing_at(1)
    await room.apply(document(1), document(2))
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        entered.set()
        await leave.wait()

    room.trouble = wait
    first = asyncio.ensure_future(room.retry(by=room.another(consumer_timeout_s=20)))
    await entered.wait()
    await room.idle(by=room.another())
    assert await room.said() == []
    leave.set()
    await first
    assert await room.said() == [1, 2]


async def test_a_chain_that_is_longer_than_one_transaction_comes_to_its_end(room: Room) -> None:
    room.trouble = failing_at(0)
    numbers = range(LONGEST_CHAIN + 3)
    await room.apply(*(document(number) for number in numbers))
    room.trouble = no_trouble
    await room.retry()
    assert await room.said() == list(numbers)


async def test_an_event_that_keeps_failing_is_a_dead_letter_and_the_later_ones_go_on(room: Room) -> None:
    room.trouble = failing_at(1, 2)
    await room.apply(document(1), document(2), document(3))
    for _ in range(4):
        await room.retry()
    assert await room.letters() == [("one:a-1", "a", 3), ("one:a-2", "a", 3)]
    assert await room.reasons() == ["ValueError: it says no"] * 2
    assert await room.said() == [3]
    await room.apply(document(1), document(2), document(4))  # a redelivery is not a replay
    assert await room.said() == [3, 4]
    assert await room.parked() == []


async def test_with_one_attempt_nothing_is_parked(room: Room) -> None:
    room.trouble = failing_at(1)
    await room.apply(document(1), document(2), by=room.another(consumer_attempts=1))
    assert await room.letters() == [("one:a-1", "a", 1)]
    assert await room.said() == [2]
    assert await room.parked() == []


async def test_replayed_letters_are_handled_in_their_order_in_front_of_what_waits(room: Room) -> None:
    room.trouble = failing_at(1, 2, 3)
    await room.apply(document(1), document(2), document(3), document(4))
    for _ in range(5):
        await room.retry()
    assert await room.parked() == [("one", "a-3", 2), ("one", "a-4", 0)]
    assert len((await room.act(Act.REPLAY)).done) == 2
    room.trouble = failing_at(1, 3)
    await room.idle()
    assert await room.letters() == [("one:a-1", "a", 4)]  # failed again, a letter again
    assert await room.parked() == [("one", "a-3", 2), ("one", "a-4", 0)]
    room.trouble = no_trouble
    await room.retry()
    assert await room.said() == [2, 3, 4]
    assert len((await room.act(Act.REPLAY)).done) == 1
    await room.idle()
    assert await room.said() == [2, 3, 4, 1]
    await room.apply(*(document(number) for number in range(1, 5)))
    assert await room.said() == [2, 3, 4, 1]


async def test_a_discarded_letter_is_never_handled(room: Room) -> None:
    room.trouble = failing_at(1)
    await room.apply(document(1), by=room.another(consumer_attempts=1))
    room.trouble = no_trouble
    assert len((await room.act(Act.DISCARD)).done) == 1
    await room.apply(document(1), document(2))
    assert await room.said() == [2]


async def test_what_the_mirror_put_aside_is_still_evidence(room: Room) -> None:
    async with room.engine.begin() as connection:
        identity = Identity.of("Account", ["a"], "a")
        letter = DeadLetter(Direction.TO_POSTGRES, dead_letters.EVENT, identity, "no event of its aggregate", {"e": []})
        await dead_letters.record(connection, letter)
    report = await room.act(Act.REPLAY)
    assert (report.done, len(report.refused)) == ([], 1)


TRANSIENT = [TransientError("busy"), StoreUnavailableError("gone"), PrimaryMovedError("a switch"), ConcurrencyError("")]


@pytest.mark.parametrize(
    ("trouble", "attempts"),
    [
        *((failing_at(1, error=error), 0) for error in TRANSIENT),
        (failing_at(1, error=AlreadyExistsError("its own fault")), 1),
        (failing_at(1, error=TimeoutError()), 1),
        (executing("SELECT 1 / 0"), 1),
        (executing("SELECT missing FROM diary"), 1),
        (executing("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$"), 0),
        (executing("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '55P03'; END $$"), 0),
        (executing("DO $$ BEGIN RAISE EXCEPTION SQLSTATE 'CF001'; END $$"), 0),
        (executing("SET LOCAL statement_timeout = 20; SELECT pg_sleep(1)"), 0),
        (executing("ROLLBACK"), 1),
        (executing("COMMIT"), 1),
    ],
)
async def test_only_what_is_the_events_fault_uses_up_an_attempt(room: Room, trouble: Trouble, attempts: int) -> None:
    room.trouble = trouble
    await room.apply(document(1), document(2), document(3, "b"))
    assert await room.parked() == [("one", "a-1", attempts), ("one", "a-2", 0)]
    assert await room.said("one", "b") == [3]
    room.trouble = no_trouble
    await room.retry()
    assert (await room.said("one"))[-2:] == [1, 2]


async def test_what_no_event_can_be_read_from_waits_for_a_newer_program_and_dies(room: Room) -> None:
    odd = [
        document(1, data={"number": "x"}),
        document(2, "b", dataschema="urn:other"),
        document(3, "c", time=7),
        document(4, "d", sequence=None, subject="\0d", id="\0"),
        {"type": "said", "id": "e", "_ts": 1},
    ]
    await room.apply(*odd, document(5, "f"))
    assert await room.said("one", "f") == [5]
    assert len(await room.parked()) == 8
    for _ in range(2):
        await room.retry()
    assert len(await room.letters()) == 8
    assert len((await room.act(Act.REPLAY)).done) == 8
    await room.idle()
    assert len(await room.letters()) == 8


async def test_the_rights_of_a_mirror_are_enough(room: Room, engine: AsyncEngine, mappings: Mappings) -> None:
    role = f"mirror_{uuid.uuid4().hex}"
    grants = [f'GRANT {privilege} ON {what} TO "{role}"' for what, privilege in rights_of(Process.MIRROR, mappings)]
    await run(engine, f'CREATE ROLE "{role}"', *grants, f'GRANT INSERT ON diary TO "{role}"')
    await run(engine, f'GRANT USAGE ON SEQUENCE diary_place_seq TO "{role}"')
    limited = engine.execution_options()
    listen(limited.sync_engine, "begin", lambda connection: connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"'))
    consumers = room.another(engine=limited)
    room.trouble = failing_at(1)
    await room.apply(document(1), document(2), by=consumers)
    for _ in range(2):
        await room.retry(by=consumers)
    assert await room.letters() == [("one:a-1", "a", 3)]
    await room.run("UPDATE crossfeed.inbox SET at = at - interval '100 days'")
    room.now += 1_000
    await room.idle(by=consumers)
    assert len(await room.rows("SELECT FROM crossfeed.inbox_mark")) == 2
    await run(engine, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')
