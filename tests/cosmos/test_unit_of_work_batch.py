"""The writes of one unit of work go to one logical partition, all or none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.entity import loaded
from core.envelope import author_of
from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
    CrossPartitionError,
    DocumentRefusedError,
    PermanentError,
)
from core.identity import Identity
from core.stamp import Stamp
from tests.cosmos.example import LINES, N1, Line, Note
from tests.cosmos.steps import add, line, raw, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.entity import Entity


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


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_batch_too_large_for_cosmos_is_refused(store: CosmosStore) -> None:
    with pytest.raises(DocumentRefusedError):
        await add(store, *(line(f"l{n}", text="x" * 900_000) for n in range(3)))
    assert await unit(store)[Line].count() == 0
