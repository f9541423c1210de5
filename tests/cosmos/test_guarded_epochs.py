"""A guarded write of an epoch that is over creates nothing and replaces nothing foreign."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from core.cosmos.guarded import GuardedWriter, Publish, Written
from core.errors import PrimaryMovedError
from core.local.cosmos.faults import Operation
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, N1, NOTES, Kept, note, note_identity
from tests.cosmos.guarded_steps import foreign, gone, lines, one, publish, state, writer_on
from tests.cosmos.steps import raw

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from tests.cosmos.steps import Seen


class OfTheNextEpoch(Kept):
    """The quarantine of a writer that slept through a flip."""

    async def untaken(self, item: Publish, found: Document) -> None:
        raise PrimaryMovedError(str(item.loaded_in))

    async def confirm(self, item: Publish) -> None:
        raise PrimaryMovedError(str(item.loaded_in))


@pytest.mark.parametrize("item", [state(1, 1), state(1, 2), gone(1, 2)], ids=["first", "later", "tombstone"])
async def test_nothing_is_created_in_an_epoch_that_is_over(
    store: CosmosStore, documents: CosmosDocuments, item: Publish
) -> None:
    with pytest.raises(PrimaryMovedError):
        await one(writer_on(store, OfTheNextEpoch()), item)
    assert await documents.read(N1) is None


@pytest.mark.parametrize("version", [1, 2])
async def test_no_batch_creates_anything_in_an_epoch_that_is_over(
    seen: Seen, store: CosmosStore, documents: CosmosDocuments, version: int
) -> None:
    with pytest.raises(PrimaryMovedError):
        await writer_on(store, OfTheNextEpoch()).write(lines(3, version))
    assert Operation.BATCH not in seen.operations
    assert [await documents.read(item.identity) for item in lines(3, version)] == [None] * 3


@pytest.mark.parametrize("item", [state(1, 2), gone(1, 2)], ids=["state", "tombstone"])
@pytest.mark.parametrize("is_taken", [True, False])
async def test_nothing_foreign_is_replaced_in_an_epoch_that_is_over(
    store: CosmosStore, documents: CosmosDocuments, item: Publish, is_taken: bool
) -> None:
    etag = await foreign(store, Title="of the new primary")
    zombie = writer_on(store, OfTheNextEpoch())
    with pytest.raises(PrimaryMovedError):
        await one(zombie, dataclasses.replace(item, taken_etag=etag if is_taken else None))
    assert (await raw(documents, N1))["Title"] == "of the new primary"


async def test_a_flip_stops_what_has_not_been_sent(seen: Seen, fresh_store: CosmosStore) -> None:
    await fresh_store.existing_container(NOTES)
    seen.forget()
    writer = GuardedWriter(fresh_store, MAPPINGS, OfTheNextEpoch(), concurrency=2)
    items = [publish(note_identity(f"n{n}"), Stamp(1, 2), note(f"n{n}")) for n in range(20)]
    with pytest.raises(PrimaryMovedError):
        await writer.write(items)
    assert Operation.CREATE not in seen.operations
    assert seen.operations.count(Operation.READ) < 8


async def test_the_epoch_is_confirmed_for_a_create_and_not_for_a_steady_update(
    writer: GuardedWriter, quarantine: Kept
) -> None:
    for version in (1, 2, 3):
        assert isinstance(await one(writer, state(1, version)), Written)
    assert quarantine.confirmed == [N1]
