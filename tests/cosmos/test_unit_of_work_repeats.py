"""Several writes of one entity in one unit of work arrive as the one write that they add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.entity import loaded
from core.envelope import Origin, Ours, author_of
from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
)
from core.stamp import Stamp
from tests.cosmos.example import N1, Line, Note
from tests.cosmos.steps import add, get, have, line, raw, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.entity import Entity


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
