"""Dead letters come back: to where they fell out of the way, in order, and never in place of what is newer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from core.domain.account import Account
from core.phases import Phase
from core.postgres import dead_letters
from core.postgres.authority import ROGUE_WRITE
from core.postgres.dead_letter_search import Selection, count, discard, find
from core.postgres.dead_letters import DeadLetter, Direction
from core.postgres.phases import open_phase
from functions.bootstrap import Application, bootstrap
from functions.letters import Act, Report, act_on
from outbox.letter_replay import replay
from outbox.slot_change import change_slots
from tests.integration.mirror_steps import Steps
from tests.integration.parking_steps import Parking, account, event, refusals
from tests.integration.relay_steps import letters, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

ACCOUNT = {"id": "acc-1", "email": "a@example.org", "displayName": "A", "role": "admin"}


@pytest.fixture
def parking(engine: AsyncEngine) -> Parking:
    return Parking(engine)


async def _no_application() -> Application:
    raise AssertionError("nothing had to be read from Cosmos DB")


async def _act(engine: AsyncEngine, act: Act = Act.REPLAY, application: Any = _no_application) -> Report:
    async with engine.connect() as connection:
        found = await count(connection, Selection())
    return await act_on(act, engine, Selection(), found.at, None, application, dry_run=False)


async def test_a_state_that_is_replayed_and_refused_again_is_a_dead_letter_at_once(
    parking: Parking, engine: AsyncEngine
) -> None:
    for _ in range(3):
        await parking.park(refusals(1))
    [(first_at,)] = await parking.rows("SELECT first_at FROM crossfeed.dead_letter")
    assert len((await _act(engine)).done) == 1
    assert await letters(engine) == []
    due = await parking.due()
    assert [item.identity for item in due] == [account(1)]
    assert await parking.resolve(due, refusals(1)) == [account(1)]
    assert await letters(engine) == [("to_cosmos", "refused", "acc-1", 4, "refused by its own fault")]
    assert await parking.rows("SELECT first_at FROM crossfeed.dead_letter") == [(first_at,)]


async def test_a_replayed_state_that_is_parked_already_is_due_at_once(parking: Parking, engine: AsyncEngine) -> None:
    for _ in range(4):
        await parking.park(refusals(1))
    assert await parking.due() == []
    await _act(engine)
    assert await parking.resolve(await parking.due()) == []
    assert await parking.parked() == []


async def test_events_are_replayed_in_their_order_in_front_of_those_that_wait(
    parking: Parking, engine: AsyncEngine
) -> None:
    for number in (7, 5):
        for _ in range(3):
            await parking.park_events(event(number, 1))
    await parking.park_events(event(8, 1), held=[event(9, 1)])
    assert len((await _act(engine)).done) == 2
    messages = await parking.due_messages()
    assert [message.seq for message in messages] == [5, 7, 8, 9]
    assert (messages[0].event, messages[0].traceparent) == (event(5, 1).event, "trace-5")
    assert await parking.park_events(event(5, 1)) == [event(5, 1)]
    assert await parking.due_events() == [7, 8, 9]


async def test_what_is_replayed_while_slots_are_cut_anew_comes_into_its_new_slot(
    parking: Parking, engine: AsyncEngine
) -> None:
    for _ in range(3):
        await parking.park(refusals(*range(20)))
        await parking.park_events(*(event(number, number) for number in range(20)))
    async with engine.begin() as connection:
        found = await count(connection, Selection())
        await replay(connection, await find(connection, Selection(), found.at, limit=40))
        cut = asyncio.create_task(change_slots(engine, 3))
        await asyncio.wait([cut], timeout=0.3)
    await cut
    wrong = "slot <> crossfeed.slot_of(entity, partition_key, id) + (event_id IS NOT NULL)::int * 3"
    assert await parking.rows(f"SELECT count(*), count(*) FILTER (WHERE {wrong}) FROM crossfeed.parked") == [(40, 0)]


async def test_a_letter_that_was_renewed_since_it_was_seen_stays(parking: Parking, engine: AsyncEngine) -> None:
    for _ in range(3):
        await parking.park(refusals(1))
    async with engine.connect() as connection:
        found = await count(connection, Selection())
        seen = await find(connection, Selection(), found.at, limit=10)
    for _ in range(3):
        await parking.park(refusals(1))
    async with engine.begin() as connection:
        assert await discard(connection, seen) == set()
        assert await replay(connection, seen) == set()
        assert await find(connection, Selection(), found.at, limit=10) == []
    assert [attempts for _, _, _, attempts, _ in await letters(engine)] == [6]


async def test_thousands_are_discarded_page_by_page(parking: Parking, engine: AsyncEngine) -> None:
    for _ in range(3):
        await parking.park(refusals(*range(2100)))
    assert len((await _act(engine, Act.DISCARD)).done) == 2100
    assert await letters(engine) == []


@pytest.fixture
async def refused(
    engine: AsyncEngine, settings: Settings, cosmos: CosmosStore, mappings: Mappings
) -> tuple[Steps, Any]:
    """A document that the mirror could not apply, because a constraint of Postgres is too strict for it."""
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    await run(engine, "ALTER TABLE accounts ADD CONSTRAINT strict CHECK (id <> 'acc-1')")
    steps = Steps(engine, cosmos, mappings, mappings.of(Account))
    await steps.foreign(ACCOUNT)
    assert (await steps.apply(steps.history)).dead_lettered == 1

    async def application() -> Application:
        async with bootstrap(settings, engine=engine, store=cosmos) as opened:
            return opened

    return steps, application


async def test_a_mirrored_document_is_read_again_and_applied_once_the_cause_is_gone(
    engine: AsyncEngine, refused: tuple[Steps, Any]
) -> None:
    steps, application = refused
    report = await _act(engine, application=application)
    assert (report.done, list(report.refused.values())) == ([], ["it was refused again"])
    assert [attempts for _, _, _, attempts, _ in await letters(engine)] == [2]
    await run(engine, "ALTER TABLE accounts DROP CONSTRAINT strict")
    await steps.foreign({**ACCOUNT, "displayName": "B"})
    assert len((await _act(engine, application=application)).done) == 1
    assert await letters(engine) == []
    content = await steps.content("acc-1")
    assert content is not None
    assert content["displayName"] == "B"


async def test_a_mirrored_document_that_is_gone_is_not_taken_for_a_delete(
    engine: AsyncEngine, cosmos: CosmosStore, refused: tuple[Steps, Any]
) -> None:
    steps, application = refused
    await steps.store.container(steps.mapping).delete_item("acc-1", partition_key="acc-1")
    report = await _act(engine, application=application)
    assert list(report.refused.values()) == ["its document is not in Cosmos DB any more; discard it"]
    assert len(await letters(engine)) == 1
    assert await steps.count("crossfeed.tombstone") == 0


async def test_nothing_is_taken_from_cosmos_while_postgres_is_the_primary(
    engine: AsyncEngine, refused: tuple[Steps, Any]
) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    [why] = (await _act(engine)).refused.values()
    assert "Postgres is the primary now" in why
    assert len(await letters(engine)) == 1


async def test_what_a_foreigner_wrote_is_evidence_and_never_replayed(engine: AsyncEngine) -> None:
    letter = DeadLetter(Direction.TO_POSTGRES, ROGUE_WRITE, account(1), "foreign", {"id": "acc-1"})
    async with engine.begin() as connection:
        await dead_letters.record(connection, letter)
    [why] = (await _act(engine)).refused.values()
    assert "kept as evidence" in why
    assert len((await _act(engine, Act.DISCARD)).done) == 1
