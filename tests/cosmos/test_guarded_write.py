"""A guarded write never takes a document backwards, be it alive, deleted or gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.guarded import GuardedWriter, Superseded, Written
from core.envelope import Origin, Ours, author_of
from core.local.cosmos.faults import Operation
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, N1, NOTES, Kept, note, note_identity
from tests.cosmos.guarded_steps import gone, one, publish, state, writer_on
from tests.cosmos.steps import raw

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from tests.cosmos.steps import Seen


async def test_a_state_arrives_stamped_and_verifiable(writer: GuardedWriter, documents: CosmosDocuments) -> None:
    outcome = await one(writer, state(3, 7, "hello"))
    found = await raw(documents, N1)
    assert outcome == Written(found["_etag"])
    assert found["Title"] == "hello"
    assert author_of(found) == Ours(Stamp(3, 7), Origin.POSTGRES, deleted=False)


async def test_a_newer_state_replaces_an_older_one(writer: GuardedWriter, documents: CosmosDocuments) -> None:
    await one(writer, state(1, 1, "old"))
    assert isinstance(await one(writer, state(1, 2, "new")), Written)
    assert (await raw(documents, N1))["Title"] == "new"


@pytest.mark.parametrize("older", [Stamp(1, 8), Stamp(2, 4)])
async def test_an_older_state_is_refused_by_a_writer_that_never_saw_the_newer_one(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, older: Stamp
) -> None:
    await one(writer, state(2, 5, "new"))
    stranger = writer_on(store)
    assert await one(stranger, state(*older, "old")) == Superseded(Stamp(2, 5))
    assert (await raw(documents, N1))["Title"] == "new"


async def test_steady_state_is_one_round_trip(seen: Seen, fresh_store: CosmosStore, quarantine: Kept) -> None:
    writer = writer_on(fresh_store, quarantine)
    await one(writer, state(1, 1))
    seen.forget()
    for version in range(2, 6):
        await one(writer, state(1, version))
    assert seen.operations == [Operation.REPLACE] * 4


async def test_a_tombstone_takes_the_place_of_the_document_and_stays(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 1, "alive"))
    await one(writer, gone(1, 2))
    found = await raw(documents, N1)
    assert author_of(found) == Ours(Stamp(1, 2), Origin.POSTGRES, deleted=True)
    assert found["ttl"] == 3600
    assert "Title" not in found
    assert await one(writer_on(store), state(1, 1, "alive")) == Superseded(Stamp(1, 2))


async def test_a_delete_of_what_is_not_there_still_leaves_a_tombstone(
    writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    assert isinstance(await one(writer, gone(1, 9)), Written)
    assert author_of(await raw(documents, N1)) == Ours(Stamp(1, 9), Origin.POSTGRES, deleted=True)


async def test_what_was_deleted_may_be_created_again_with_a_newer_stamp(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, gone(1, 2))
    await one(writer_on(store), state(1, 3, "again"))
    found = await raw(documents, N1)
    assert author_of(found) == Ours(Stamp(1, 3), Origin.POSTGRES, deleted=False)
    assert "ttl" not in found


async def test_a_hard_deleted_document_is_created_again(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 1))
    await store.container(NOTES).delete_item("n1", partition_key="n1")
    assert isinstance(await one(writer, state(1, 2, "back")), Written)
    assert (await raw(documents, N1))["Title"] == "back"


async def test_only_the_newest_of_several_states_of_one_document_is_written(
    seen: Seen, fresh_store: CosmosStore, quarantine: Kept
) -> None:
    writer = writer_on(fresh_store, quarantine)
    await fresh_store.existing_container(NOTES)
    seen.forget()
    first, newest, middle = await writer.write([state(1, 1), state(1, 3), state(1, 2)])
    assert isinstance(newest, Written)
    assert first == middle == Superseded(Stamp(1, 3))
    assert seen.operations == [Operation.READ, Operation.CREATE]


async def test_the_memory_of_etags_is_bounded_and_forgetting_is_harmless(
    store: CosmosStore, quarantine: Kept, documents: CosmosDocuments
) -> None:
    writer = GuardedWriter(store, MAPPINGS, quarantine, 8, remember=2)
    for version in (1, 2, 3):
        await writer.write(
            [publish(note_identity(f"n{n}"), Stamp(1, version), note(f"n{n}", Size=version)) for n in range(5)]
        )
    assert len(writer._views) == 2
    assert [(await raw(documents, note_identity(f"n{n}")))["Size"] for n in range(5)] == [3] * 5
