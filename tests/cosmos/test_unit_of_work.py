"""What a unit of work on Cosmos DB promises: one partition atomically, optimistic concurrency, honest outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.content import content_of
from core.cosmos.guarded import GuardedWriter, Publish
from core.entity import loaded
from core.envelope import Origin, Ours, author_of
from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
    CrossPartitionError,
    DocumentRefusedError,
    MappingError,
    PermanentError,
    PrimaryMovedError,
)
from core.identity import Identity
from core.local.cosmos.faults import WRITES
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, NOTES, Kept, Line, Note, note, note_identity
from tests.cosmos.steps import add, get, have, line, raw, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.entity import Entity
    from tests.cosmos.steps import Seen


N1 = note_identity("n1")


async def test_what_is_added_is_stamped_as_a_write_of_cosmos(store: CosmosStore, documents: CosmosDocuments) -> None:
    entity = Note(id="n1", title="hello")
    await add(store, entity, epoch=4)
    document = await raw(documents, N1)
    assert author_of(document) == Ours(Stamp(4, 1), Origin.COSMOS, deleted=False)
    assert content_of(document) == note(Title="hello")
    state = loaded(entity)
    assert state is not None
    assert (state.identity, state.stamp, state.etag) == (N1, Stamp(4, 1), document["_etag"])


async def test_nothing_is_sent_before_commit_and_nothing_after_leaving_without_it(
    seen: Seen, fresh_store: CosmosStore
) -> None:
    async with unit(fresh_store) as work:
        await work[Note].add(Note(id="n1"))
    assert not WRITES.intersection(seen.operations)
    async with unit(fresh_store) as work:
        await work[Note].add(Note(id="n1"))
    await work.commit()
    async with unit(fresh_store) as work:
        await work[Note].add(Note(id="n1"))
        await work.rollback()
        await work.commit()
    assert not WRITES.intersection(seen.operations)


async def test_each_write_counts_the_version_up_by_one(store: CosmosStore, documents: CosmosDocuments) -> None:
    entity = Note(id="n1")
    await add(store, entity)
    for version in range(2, 5):
        entity.size = version
        async with unit(store) as work:
            await work[Note].update(entity)
            await work.commit()
        author = author_of(await raw(documents, N1))
        assert isinstance(author, Ours)
        assert author.stamp == Stamp(1, version)


async def test_an_entity_that_exists_cannot_be_added(store: CosmosStore) -> None:
    await add(store, Note(id="n1", title="first"))
    with pytest.raises(AlreadyExistsError):
        await add(store, Note(id="n1", title="second"))
    assert (await have(store)).title == "first"


async def test_an_update_of_a_stale_copy_is_refused(store: CosmosStore) -> None:
    await add(store, Note(id="n1"))
    mine, theirs = await have(store), await have(store)
    theirs.title = "theirs"
    mine.title = "mine"
    async with unit(store) as work:
        await work[Note].update(theirs)
        await work.commit()
    before = loaded(mine)
    async with unit(store) as work:
        await work[Note].update(mine)
        with pytest.raises(ConcurrencyError):
            await work.commit()
    assert loaded(mine) == before
    assert (await have(store)).title == "theirs"


async def test_a_foreign_write_in_between_is_noticed(store: CosmosStore) -> None:
    await add(store, Note(id="n1"))
    mine = await have(store)
    await store.container(NOTES).upsert_item(note(Title="foreign"))
    async with unit(store) as work:
        await work[Note].update(mine)
        with pytest.raises(ConcurrencyError):
            await work.commit()


async def test_an_update_or_delete_of_what_was_never_read_is_refused(store: CosmosStore) -> None:
    await add(store, Note(id="n1"))
    async with unit(store) as work:
        for write in (work[Note].update, work[Note].delete):
            with pytest.raises(ConcurrencyError):
                await write(Note(id="n1"))


async def test_a_delete_leaves_a_tombstone_and_never_a_gap(store: CosmosStore, documents: CosmosDocuments) -> None:
    entity = Note(id="n1", title="secret")
    await add(store, entity)
    async with unit(store) as work:
        await work[Note].delete(entity)
        await work.commit()
    document = await raw(documents, N1)
    assert author_of(document) == Ours(Stamp(1, 2), Origin.COSMOS, deleted=True)
    assert content_of(document) == {"id": "n1", "ttl": 30 * 24 * 3600}
    assert await get(store) is None
    assert not await unit(store)[Note].exists("n1")
    assert await unit(store)[Note].list() == []
    assert await unit(store)[Note].count() == 0
    assert loaded(entity) is None


async def test_a_deleted_entity_can_be_added_again_above_its_tombstone(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    entity = Note(id="n1")
    await add(store, entity)
    async with unit(store) as work:
        await work[Note].delete(entity)
        await work.commit()
    again = Note(id="n1", title="again")
    await add(store, again)
    document = await raw(documents, N1)
    assert author_of(document) == Ours(Stamp(1, 3), Origin.COSMOS, deleted=False)
    assert "ttl" not in document
    state = loaded(again)
    assert state is not None
    assert state.stamp == Stamp(1, 3)


async def test_entities_deleted_before_can_be_added_again_in_one_batch(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    lines = [line(f"l{n}") for n in range(4)]
    await add(store, *lines)
    async with unit(store) as work:
        for entity in lines[:3]:
            await work[Line].delete(entity)
        await work.commit()
    fresh = [line("l0", text="x"), line("l2", text="x"), line("new", text="x")]
    await add(store, *fresh)
    stamps = [author_of(await raw(documents, Identity.of("Line", ["a"], id_))) for id_ in ("l0", "l2", "new")]
    assert [getattr(author, "stamp", None) for author in stamps] == [Stamp(1, 3), Stamp(1, 3), Stamp(1, 1)]


async def test_a_document_of_a_foreign_writer_is_updated_and_becomes_ours(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    await store.container(NOTES).upsert_item({**note(Title="old"), "Unknown": {"kept": [1, "é"]}})
    entity = await have(store)
    entity.title = "new"
    async with unit(store) as work:
        await work[Note].update(entity)
        await work.commit()
    document = await raw(documents, N1)
    assert content_of(document) == {**note(Title="new"), "Unknown": {"kept": [1, "é"]}}
    assert author_of(document) == Ours(Stamp(1, 1), Origin.COSMOS, deleted=False)


async def test_writes_to_one_partition_are_all_or_nothing(store: CosmosStore) -> None:
    await add(store, line("taken"))
    entities = [line("l1"), line("taken"), line("l2")]
    with pytest.raises(AlreadyExistsError):
        await add(store, *entities)
    assert [entity.id for entity in await unit(store)[Line].list()] == ["taken"]
    assert [loaded(entity) for entity in entities] == [None, None, None]


async def test_a_conflict_of_one_update_undoes_the_whole_batch(store: CosmosStore) -> None:
    one, two = line("l1"), line("l2")
    await add(store, one, two)
    await store.container(LINES).upsert_item({"id": "l2", "accountId": "a", "Text": "foreign", "Code": "l2"})
    one.text = two.text = "mine"
    async with unit(store) as work:
        await work[Line].update(one)
        await work[Line].delete(two)
        with pytest.raises(ConcurrencyError):
            await work.commit()
    assert {entity.id: entity.text for entity in await unit(store)[Line].list()} == {"l1": "", "l2": "foreign"}


@pytest.mark.parametrize(
    "entities", [[line("l1", "a"), line("l1", "b")], [Note(id="n1"), line("n1", "n1")]], ids=["keys", "containers"]
)
async def test_two_logical_partitions_are_refused_before_anything_is_sent(
    store: CosmosStore, documents: CosmosDocuments, entities: list[Entity]
) -> None:
    with pytest.raises(CrossPartitionError, match="2 logical partitions"):
        await add(store, *entities)
    assert await unit(store)[Line].list() == []
    assert await documents.read(N1) is None


async def test_a_hundred_writes_are_one_transaction_and_one_more_is_refused(store: CosmosStore) -> None:
    await add(store, *(line(f"l{n:03}") for n in range(100)))
    assert await unit(store)[Line].count() == 100
    with pytest.raises(PermanentError, match="101 writes"):
        await add(store, *(line(f"m{n:03}") for n in range(101)))


@pytest.mark.parametrize("change", [{"id": "other"}, {"account": "b"}])
async def test_a_changed_key_must_be_a_delete_and_an_add(store: CosmosStore, change: dict[str, str]) -> None:
    for entity in (line("l1"), line("l2")):
        await add(store, entity)
        changed = entity.model_copy(update=change)
        with pytest.raises(CrossPartitionError, match="two units of work"):
            await unit(store)[Line].update(changed)


async def test_what_was_written_in_the_unit_may_be_written_further_and_is_sent_once(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    entity = Note(id="n1")
    async with unit(store) as work:
        await work[Note].add(entity)
        entity.title = "second thought"
        await work[Note].update(entity)
        copy = await work[Note].get_by_id("n1")
        assert copy is not None
        assert copy.title == "second thought"
        copy.title = "third"
        await work[Note].update(copy)
        with pytest.raises(ConcurrencyError):
            await work[Note].update(entity)
        await work.commit()
    document = await raw(documents, N1)
    assert document["Title"] == "third"
    assert document["crossfeed"]["version"] == 1


async def test_a_second_copy_is_stale_as_soon_as_the_first_was_written_in_the_unit(store: CosmosStore) -> None:
    await add(store, Note(id="n1"))
    async with unit(store) as work:
        one, two = await work[Note].get_by_id("n1"), await work[Note].get_by_id("n1")
        assert one is not None
        assert two is not None
        await work[Note].update(one)
        for write in (work[Note].update, work[Note].delete):
            with pytest.raises(ConcurrencyError):
                await write(two)


async def test_added_and_deleted_in_one_unit_is_a_tombstone_as_in_postgres(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    entity = Note(id="n1", title="secret")
    async with unit(store) as work:
        await work[Note].add(entity)
        await work[Note].delete(entity)
        assert not await work[Note].exists("n1")
        assert await work[Note].list() == []
        with pytest.raises(ConcurrencyError):
            await work[Note].update(entity)
        await work.commit()
    assert loaded(entity) is None
    assert await get(store) is None
    document = await raw(documents, N1)
    assert author_of(document) == Ours(Stamp(1, 1), Origin.COSMOS, deleted=True)
    async with unit(store) as work:  # and above the tombstone that is there already
        await work[Note].add(entity)
        await work[Note].delete(entity)
        await work.commit()
    assert author_of(await raw(documents, N1)) == Ours(Stamp(1, 2), Origin.COSMOS, deleted=True)
    await add(store, entity)


@pytest.mark.parametrize("others", [[], [line("l2"), line("l3")]], ids=["alone", "batch"])
async def test_what_exists_cannot_be_added_even_by_a_unit_that_deletes_it_again(
    store: CosmosStore, others: list[Entity]
) -> None:
    await add(store, line("l1", text="kept"))
    entity = line("l1")
    async with unit(store) as work:
        await work[Line].add(entity)
        await work[Line].delete(entity)
        for other in others:
            await work[type(other)].add(other)
        with pytest.raises(AlreadyExistsError):
            await work.commit()
    assert [found.text for found in await unit(store)[Line].list()] == ["kept"]


async def test_added_deleted_and_added_again_in_one_unit_is_an_add(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    entity = Note(id="n1", title="first")
    async with unit(store) as work:
        await work[Note].add(entity)
        await work[Note].delete(entity)
        await work[Note].add(Note(id="n1", title="second"))
        await work.commit()
    assert author_of(await raw(documents, N1)) == Ours(Stamp(1, 1), Origin.COSMOS, deleted=False)
    assert (await have(store)).title == "second"


async def test_deleted_and_added_in_one_unit_is_an_update(store: CosmosStore, documents: CosmosDocuments) -> None:
    entity = Note(id="n1")
    await add(store, entity)
    async with unit(store) as work:
        await work[Note].delete(entity)
        with pytest.raises(ConcurrencyError):
            await work[Note].update(entity)
        await work[Note].add(Note(id="n1", title="anew"))
        await work.commit()
    document = await raw(documents, N1)
    assert (document["Title"], document["crossfeed"]["version"]) == ("anew", 2)
    assert "deleted" not in document["crossfeed"]


async def test_what_neither_store_can_hold_is_refused_at_the_call(store: CosmosStore) -> None:
    async with unit(store) as work:
        with pytest.raises(DocumentRefusedError):
            await work[Note].add(Note(id="a/b"))
        with pytest.raises(DocumentRefusedError):
            await work[Note].add(Note(id="n1", size=2**53 + 1))


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_batch_too_large_for_cosmos_is_refused(store: CosmosStore) -> None:
    with pytest.raises(DocumentRefusedError):
        await add(store, *(line(f"l{n}", text="x" * 900_000) for n in range(3)))
    assert await unit(store)[Line].count() == 0


async def test_a_unit_of_an_older_epoch_does_not_write_over_a_newer_one(
    store: CosmosStore, documents: CosmosDocuments, quarantine: Kept
) -> None:
    writer = GuardedWriter(store, MAPPINGS, quarantine, 3600, 1)
    await writer.write(
        [Publish(N1, Stamp(5, 1), note(), loaded_in=1), Publish(note_identity("n2"), Stamp(5, 1), None, loaded_in=1)]
    )
    async with unit(store, epoch=4) as work:
        entity = await work[Note].get_by_id("n1")
        assert entity is not None
        with pytest.raises(PrimaryMovedError):
            await work[Note].update(entity)
        await work[Note].add(Note(id="n2"))
        with pytest.raises(PrimaryMovedError):
            await work.commit()
    assert (await raw(documents, N1))["crossfeed"]["epoch"] == 5


async def test_an_epoch_that_a_foreign_writer_made_up_stops_nobody(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    forged = {**note(), "crossfeed": {"epoch": 99, "version": 7, "hash": "1:0", "origin": "cosmos"}}
    await store.container(NOTES).upsert_item(forged)
    entity = await have(store)
    async with unit(store, epoch=2) as work:
        await work[Note].update(entity)
        await work.commit()
    author = author_of(await raw(documents, N1))
    assert isinstance(author, Ours)
    assert author.stamp == Stamp(2, 8)


async def test_a_class_without_a_mapping_is_named(store: CosmosStore) -> None:
    class Stranger(Note):
        pass

    with pytest.raises(MappingError, match="Stranger"):
        unit(store)[Stranger]
