"""G8 towards Postgres: a document that only another one's state keeps out waits for it, and nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from core.cosmos.documents import CosmosDocuments
from core.errors import ConcurrencyError
from core.phases import Phase
from core.postgres.mirror_retry import retry_parked
from core.postgres.mirrored_judging import STALE_READ_S
from core.postgres.phases import open_phase
from tests.integration.mirror_parking_steps import (
    BOTH,
    NEVER,
    PEOPLE,
    SOON,
    Person,
    Town,
    counted_writes,
    one_container,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity


@pytest.fixture
async def town(engine: AsyncEngine, cosmos: CosmosStore) -> Town:
    return await Town.founded(engine, cosmos)


async def test_a_unique_value_is_handed_over_in_the_wrong_order(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"))
    let_go = await town.person("a", "y")
    taken = await town.person("b", "x")
    outcome = await town.mirrored(taken)
    assert (outcome.parked, outcome.dead_lettered) == (1, 0)
    assert (await town.parked()).documents == 1
    await town.mirrored(let_go)
    assert await town.emails() == {"a": "y", "b": "x"}, "the batch that lets go brings what waited along"
    assert (await town.parked()).documents == 0
    assert await town.letters() == []


@pytest.mark.parametrize("size", [2, 7])
async def test_values_that_go_around_in_a_ring_move_in_one_batch(town: Town, size: int) -> None:
    ids = [f"p{number}" for number in range(size)]
    await town.mirrored(*[await town.person(id_, f"e-{id_}", badge=id_, seat=id_) for id_ in ids])
    async with town.engine.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL crossfeed.mirroring = 'on'")
        await connection.exec_driver_sql("UPDATE people SET note = 'kept ' || id")
        await connection.exec_driver_sql("INSERT INTO pets (id, owner_id) SELECT 'of ' || id, id FROM people")
    turned = [ids[(number + 1) % size] for number in range(size)]
    moved = [
        await town.person(id_, f"e-{next_}", badge=next_.upper(), seat=next_)
        for id_, next_ in zip(ids, turned, strict=True)
    ]
    poison = await town.person("poison", "a\0b")
    outcome = await town.mirrored(*moved, poison)
    assert (outcome.applied, outcome.parked, outcome.dead_lettered) == (size, 0, 1)
    assert await town.emails() == {id_: f"e-{next_}" for id_, next_ in zip(ids, turned, strict=True)}
    async with town.engine.connect() as connection:
        notes = await connection.exec_driver_sql("SELECT note FROM people ORDER BY id")
        assert list(notes.scalars()) == [f"kept {id_}" for id_ in ids], "what the document does not say stays"


async def test_values_that_go_around_in_a_ring_meet_over_batches(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"), await town.person("b", "y"))
    first, second = await town.person("a", "y"), await town.person("b", "x")
    assert (await town.mirrored(first)).parked == 1
    await town.mirrored(second)
    await town.retried(eager=True)
    assert await town.emails() == {"a": "y", "b": "x"}
    assert ((await town.parked()).documents, await town.letters()) == (0, [])


async def test_a_ring_moves_although_others_want_what_it_has(town: Town) -> None:
    await town.mirrored(*[await town.person(id_, id_) for id_ in ("a", "b", "c")])
    swap = [await town.person("a", "b"), await town.person("b", "a")]
    stays_out = [await town.person("d", "c"), await town.person("e", "d"), await town.person("f", "c")]
    outcome = await town.mirrored(*stays_out, *swap)
    assert (outcome.applied, outcome.parked) == (3, 2)
    assert await town.emails() == {"a": "b", "b": "a", "c": "c", "e": "d"}


async def test_a_child_comes_before_its_parent_and_goes_after_it(town: Town) -> None:
    child = await town.pet("rex", "ana")
    assert (await town.mirrored(child, container="Pets")).parked == 1
    await town.mirrored(await town.person("ana", "x"))
    assert await town.pets.count("pets") == 1
    await town.people.delete("ana")
    assert (await town.mirrored(town.people.history[-1])).parked == 1
    await town.pets.delete("rex")
    await town.mirrored(town.pets.history[-1], container="Pets")
    assert (await town.pets.count("pets"), await town.emails()) == (0, {})
    assert ((await town.parked()).documents, await town.letters()) == (0, [])


async def test_a_newer_state_takes_the_place_of_what_is_parked(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"))
    await town.mirrored(await town.person("b", "x"))
    await town.mirrored(await town.person("b", "z"))
    assert await town.emails() == {"a": "x", "b": "z"}
    assert ((await town.parked()).documents, await town.letters()) == (0, [])


async def test_an_older_state_that_comes_again_does_not_make_what_is_parked_forgotten(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"), await town.person("b", "first"))
    older, parked = await town.person("b", "older"), await town.person("b", "x")
    await town.mirrored(parked)
    await town.mirrored(older)
    assert (await town.parked()).documents == 1
    await town.mirrored(await town.person("a", "y"))
    assert await town.emails() == {"a": "y", "b": "x"}


async def test_an_older_state_that_comes_again_does_not_settle_the_letter_of_a_newer_one(town: Town) -> None:
    older = await town.person("a", "older")
    poison = await town.person("a", "a\0b")
    await town.mirrored(poison)
    await town.mirrored(older)
    assert len(await town.letters()) == 1
    await town.mirrored(await town.person("a", "mended"))
    assert await town.letters() == []


async def test_what_nobody_makes_room_for_becomes_a_dead_letter_in_the_end(town: Town) -> None:
    town.patience = SOON
    await town.mirrored(await town.person("a", "x"))
    await town.mirrored(await town.person("b", "x"))
    for _ in range(SOON.attempts - 1):
        assert await town.letters() == []
        await asyncio.sleep(SOON.longest_s)
        await town.retried()
    [letter] = await town.letters()
    assert "people_email_key" in letter
    assert "after 3 attempts" in letter
    assert (await town.parked()).documents == 0


async def test_tries_beside_batches_and_new_states_use_up_no_attempts(town: Town) -> None:
    town.patience = NEVER
    await town.mirrored(await town.person("a", "x"))
    for number in range(5):
        await town.mirrored(await town.person("b", "x", seat=str(number)))
        await town.retried(eager=True)
    async with town.engine.connect() as connection:
        attempts = await connection.exec_driver_sql("SELECT attempts FROM crossfeed.mirror_parked")
        assert list(attempts.scalars()) == [1]
    oldest_s = (await town.parked()).oldest_s
    assert oldest_s is not None
    assert oldest_s > 0


async def test_what_is_tried_again_is_what_is_there_now(town: Town) -> None:
    town.patience = SOON
    await town.mirrored(await town.person("a", "x"))
    await town.mirrored(await town.person("b", "x"))
    await town.person("b", "z")  # which the feed has not shown yet
    await town.make_due()
    await town.retried()
    assert await town.emails() == {"a": "x", "b": "z"}
    assert (await town.parked()).documents == 0


async def test_what_is_parked_when_postgres_becomes_primary_is_a_late_write(town: Town) -> None:
    await town.people.add(Person(id="a", email="x"))
    await town.people.add(Person(id="b", email="x"))
    await town.mirrored(*town.people.history)
    assert (await town.parked()).documents == 1
    await open_phase(town.engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await town.retried(eager=True)
    assert (await town.parked()).documents == 0
    assert await town.emails() == {"a": "x"}
    [letter] = await town.letters()
    assert "while Postgres is primary" in letter


async def test_many_poisonous_documents_among_many_good_ones_cost_little(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one of them costs the way down to it, not the whole batch again."""
    documents = [await town.person(f"p{number}", f"e{number}", badge=None if number % 8 else 5) for number in range(48)]
    tried = counted_writes(monkeypatch)
    outcome = await town.mirrored(*documents)
    assert (outcome.applied, outcome.dead_lettered) == (42, 6)
    assert sum(tried) < len(documents) * 6, "on each level every document once at most"
    assert len(tried) < 2 * 6 * 6


async def test_the_types_of_one_container_are_written_parents_first_and_deleted_children_first(
    engine: AsyncEngine, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are called, and whatever their order in the feed; nobody has to find out by trying."""
    steps = await one_container(engine, cosmos)
    children = [{"id": f"c{n}", "type": "child", "owner_id": f"p{n}"} for n in range(5)]
    for document in (*children, *({"id": f"p{n}", "type": "parent", "email": f"{n}"} for n in range(5))):
        await steps.foreign(document)
    tried = counted_writes(monkeypatch)
    assert (await steps.apply(steps.history)).applied == 10
    assert tried == [5, 5]
    gone = [item | {"crossfeed": {"epoch": 2, "deleted": True}} for item in reversed(steps.history)]
    tried.clear()
    assert (await steps.apply([item | {"_etag": "gone", "_lsn": item["_lsn"] + 100} for item in gone])).buried == 10
    assert tried == [5, 5]


async def test_what_is_gone_is_waited_for_until_no_replica_can_be_behind(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"))
    await town.mirrored(await town.person("b", "x"))
    await town.store.container(PEOPLE).delete_item("b", partition_key="b")
    reader = CosmosDocuments(town.store, BOTH)
    for later_s, still_parked in ((0, 1), (STALE_READ_S + 5, 0)):
        await town.make_due()
        phase = await town.phase()
        async with town.engine.begin() as connection:
            await retry_parked(connection, BOTH, phase, reader, NEVER, clock=lambda: time.time() + later_s)  # noqa: B023 - called at once
        assert (await town.parked()).documents == still_parked
    assert (await town.emails(), await town.letters()) == ({"a": "x"}, [])


async def test_a_replica_that_is_behind_what_is_parked_is_not_believed(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"))
    older = await town.person("b", "old")
    await town.mirrored(await town.person("b", "x"))

    class Behind(CosmosDocuments):
        async def read(self, identity: Identity) -> Document | None:
            return older

    await town.make_due()
    phase = await town.phase()
    async with town.engine.begin() as connection:
        await retry_parked(connection, BOTH, phase, Behind(town.store, BOTH), NEVER)
    assert await town.emails() == {"a": "x"}
    assert (await town.parked()).documents == 1


async def test_values_go_around_while_every_document_is_mirrored_by_itself_at_the_same_time(town: Town) -> None:
    ids = [f"p{number}" for number in range(4)]
    await town.mirrored(*[await town.person(id_, id_) for id_ in ids])
    turned = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    documents = [await town.person(id_, turned[id_]) for id_ in ids]

    async def mirror(document: Document) -> None:
        while True:
            with suppress(ConcurrencyError):  # one of those that waited for each other
                await town.mirrored(document)
                return

    await asyncio.gather(*map(mirror, documents))
    await town.retried(eager=True)
    assert await town.emails() == turned
    assert ((await town.parked()).documents, await town.letters()) == (0, [])


async def test_of_two_states_in_one_batch_the_later_counts_also_if_the_clock_stepped_back(town: Town) -> None:
    first, second = await town.person("a", "first"), await town.person("a", "second")
    stepped = second | {"_ts": first["_ts"] - 30}
    await town.mirrored(first, stepped)
    assert await town.emails() == {"a": "second"}
    await town.mirrored(stepped, first)
    assert await town.emails() == {"a": "second"}
