"""While Cosmos DB is primary events travel in their aggregate's document; the mirror puts each into the log once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from changefeed.retention import purge
from core.cosmos.event_sink import EventSink
from core.domain.account import Account
from core.domain.pending_signup import PendingSignup
from core.events import carried_by
from core.phases import Phase
from core.postgres.phases import open_phase
from tests.integration.event_steps import Said, account, delivered, log_of_events, numbers
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import letters

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings

A = account()


@pytest.fixture
async def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return Steps(engine, cosmos, mappings, mappings.of(Account))


async def say(steps: Steps, *said: int, of: Identity = A, **change: Any) -> None:
    """Record events, with a write of the aggregate if there is a change."""
    async with steps.work((await steps.phase()).epoch) as work:
        found = await work[Account].get_by_id(of.id)
        if found is None:
            await work[Account].add(Account(id=of.id))
        elif change:
            await work[Account].update(found.model_copy(update=change))
        for number in said:
            work.record(Said(number=number), of=of)
        await work.commit()
    await steps.watch()


async def carried(steps: Steps, id_: str = "a") -> list[int]:
    return [event["data"]["number"] for event in carried_by(await steps.current(id_) or {})]


async def test_the_last_of_several_writes_brings_the_events_of_all(steps: Steps, engine: AsyncEngine) -> None:
    await say(steps, 1)
    await steps.change("a", display_name="a write without an event")
    await say(steps, 2, 3, display_name="and one with two")
    await say(steps, 4)
    outcome = await steps.apply(steps.history[-1:])
    assert (outcome.applied, outcome.events) == (1, 4)
    assert numbers(await log_of_events(engine)) == [1, 2, 3, 4]


async def test_documents_shown_again_bring_nothing_new(steps: Steps, engine: AsyncEngine) -> None:
    await say(steps, 1)
    await say(steps, 2)
    first, second = steps.history
    for batch in ([first], [first], [first, second], [second], [second, first], [first]):
        await steps.apply(batch)
    assert numbers(await log_of_events(engine)) == [1, 2]


async def test_a_tombstone_carries_the_last_events(steps: Steps, engine: AsyncEngine) -> None:
    await say(steps, 1)
    async with steps.work(2) as work:
        found = await work[Account].get_by_id("a")
        assert found is not None
        work.record(Said(number=2), of=found)
        await work[Account].delete(found)
        await work.commit()
    await say(steps, 3)
    assert await carried(steps) == [1, 2, 3], "added again over the tombstone"
    await steps.watch()
    await steps.apply(steps.history[-1:])
    assert numbers(await log_of_events(engine)) == [1, 2, 3]


async def test_an_event_leaves_the_document_once_it_was_delivered(
    steps: Steps, engine: AsyncEngine, cosmos: CosmosStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.cosmos.recorded.LOOK_S", 30)  # however busy the machine is
    sink = EventSink(cosmos, settings)
    await say(steps, 1, 2)
    await steps.apply(steps.history)
    await say(steps, 3)
    assert await carried(steps) == [1, 2, 3], "taken by the mirror, but not delivered yet"
    await sink.write((await log_of_events(engine))[:1])
    await say(steps, 4)
    assert await carried(steps) == [2, 3, 4]
    await steps.apply(steps.history)
    await sink.write(await log_of_events(engine))
    await steps.change("a", display_name="no event")
    assert await carried(steps) == []
    assert "events" not in (await steps.current("a") or {})["crossfeed"]
    await steps.apply(steps.history)
    assert numbers(await log_of_events(engine)) == await delivered(cosmos, A) == [1, 2, 3, 4]
    async with engine.connect() as connection:  # nothing is remembered for ever, and needs not be
        assert (await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.event_taken")).scalar_one() == 0
    for document in (*steps.history, *reversed(steps.history)):
        await steps.apply([document])
    assert numbers(await log_of_events(engine)) == [1, 2, 3, 4]


async def test_what_a_tombstone_carried_is_forgotten_when_it_has_expired(
    steps: Steps, engine: AsyncEngine, settings: Settings
) -> None:
    for id_ in ("gone", "lives", "gone lately"):
        await say(steps, 1, of=account(id_))
    for id_ in ("gone", "gone lately"):
        await steps.delete(id_)
    await steps.apply(steps.history)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE crossfeed.event_taken SET at = at - make_interval(secs => %(ttl_s)s) WHERE id <> 'gone lately'",
            {"ttl_s": settings.tombstone_ttl_s},
        )
    await purge(engine, settings)
    async with engine.connect() as connection:
        left = await connection.exec_driver_sql("SELECT id FROM crossfeed.event_taken ORDER BY id")
        assert list(left.scalars()) == ["gone lately", "lives"]


async def test_what_cannot_be_looked_up_is_carried_on(
    steps: Steps, engine: AsyncEngine, cosmos: CosmosStore, settings: Settings
) -> None:
    await say(steps, 1)
    await steps.apply(steps.history)
    await EventSink(cosmos, settings).write(await log_of_events(engine))
    await cosmos.client.get_database_client(cosmos.database).delete_container(cosmos.own.events.name)
    await say(steps, 2)
    assert await carried(steps) == [1, 2]


async def test_the_events_of_a_document_that_postgres_cannot_hold_are_taken_all_the_same(
    steps: Steps, engine: AsyncEngine
) -> None:
    await say(steps, 1)
    document = dict((await steps.current("a")) or {})
    await steps.foreign(document | {"DisplayName": {"not": "a text"}})
    outcome = await steps.apply(steps.history[-1:])
    assert (outcome.applied, outcome.dead_lettered, outcome.events) == (0, 1, 1)
    await steps.foreign(document | {"DisplayName": "mended"})
    await say(steps, 2)
    await steps.apply(steps.history[-1:])
    assert numbers(await log_of_events(engine)) == [1, 2]


async def test_a_foreign_writer_brings_on_what_it_found_and_nothing_that_it_made_up(
    steps: Steps, engine: AsyncEngine
) -> None:
    await say(steps, 1)
    document = dict((await steps.current("a")) or {})
    await steps.foreign(document | {"DisplayName": "by others"})
    await steps.foreign(document | {"id": "copy"})
    made_up = [5, {"id": 1}, {"id": "x", "subject": "Account/b"}, {"id": "nul\0", "subject": "Account/b"}]
    await steps.foreign({"id": "b", "crossfeed": {"events": made_up}})
    await steps.foreign({"id": "c", "crossfeed": {"events": "none"}})
    outcome = await steps.apply(steps.history)
    assert (outcome.applied, outcome.events) == (4, 1)
    assert numbers(await log_of_events(engine), A) == [1]
    reason = "the document carries what is no event of its aggregate"
    assert sorted(letter[1:] for letter in await letters(engine)) == [
        ("event", "b", 1, reason),
        ("event", "copy", 1, reason),
    ]


async def test_aggregates_of_one_partition_share_a_transaction_and_nothing_else(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    steps = Steps(engine, cosmos, mappings, mappings.of(PendingSignup))
    signups = [PendingSignup(id=id_, email="x@y") for id_ in "12"]
    async with steps.work(2) as work:
        for number, signup in enumerate(signups):
            await work[PendingSignup].add(signup)
            work.record(Said(number=number), of=signup)
        await work.commit()
    await steps.watch()
    await steps.apply(steps.history)
    assert [message.identity.id for message in await log_of_events(engine)] == ["1", "2"]


async def test_a_mirror_of_an_epoch_that_is_over_takes_nothing(steps: Steps, engine: AsyncEngine) -> None:
    await say(steps, 1)
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await steps.apply(steps.history)
    assert await log_of_events(engine) == [], "a late write: its letter holds its events"
    assert [letter[1] for letter in await letters(engine)] == ["late_write"]
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT document -> 'crossfeed' -> 'events' FROM crossfeed.dead_letter"
        )
        assert len(found.scalar_one()) == 1


async def test_redelivery_in_any_order_takes_each_event_once_and_in_order(steps: Steps, engine: AsyncEngine) -> None:
    """Stale pages, pages again, documents of several ages in one batch; in the end the newest, as the feed does."""
    for seed in range(2):
        dice, of = random.Random(seed), account(f"a{seed}")
        steps.history.clear()
        number = 0
        for _ in range(14):
            match dice.choice(["say", "say", "change", "delete", "apply", "apply"]):
                case "say":
                    number += 1
                    await say(steps, number, of=of, **({"display_name": str(number)} if dice.random() < 0.5 else {}))
                case "change":
                    await steps.change(of.id, display_name=f"changed {number}")
                case "delete":
                    await steps.delete(of.id)
                case _:
                    some = dice.choices(steps.history, k=dice.randint(1, 3)) if steps.history else []
                    await steps.apply(some)
        await steps.apply(steps.history[-1:])
        assert numbers(await log_of_events(engine), of) == list(range(1, number + 1)), f"seed {seed}"
