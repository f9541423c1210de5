"""A unit of work on Cosmos DB stamps what it writes and refuses what it cannot answer for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.content import content_of
from core.entity import loaded
from core.envelope import Origin, Ours, author_of
from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
    DocumentRefusedError,
    MappingError,
)
from core.local.cosmos.faults import WRITES
from core.stamp import Stamp
from tests.cosmos.example import N1, NOTES, Note, note
from tests.cosmos.steps import add, get, have, raw, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from tests.cosmos.steps import Seen


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


async def test_what_neither_store_can_hold_is_refused_at_the_call(store: CosmosStore) -> None:
    async with unit(store) as work:
        with pytest.raises(DocumentRefusedError):
            await work[Note].add(Note(id="a/b"))
        with pytest.raises(DocumentRefusedError):
            await work[Note].add(Note(id="n1", size=2**53 + 1))


async def test_a_class_without_a_mapping_is_named(store: CosmosStore) -> None:
    class Stranger(Note):
        pass

    with pytest.raises(MappingError, match="Stranger"):
        unit(store)[Stranger]
