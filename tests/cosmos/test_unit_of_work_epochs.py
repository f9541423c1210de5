"""A unit of work never writes over a newer epoch, unless a foreign writer made that epoch up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.guarded import GuardedWriter
from core.envelope import Ours, author_of
from core.errors import (
    PrimaryMovedError,
)
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, N1, NOTES, Kept, Note, note, note_identity
from tests.cosmos.guarded_steps import publish
from tests.cosmos.steps import have, raw, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments


async def test_a_unit_of_an_older_epoch_does_not_write_over_a_newer_one(
    store: CosmosStore, documents: CosmosDocuments, quarantine: Kept
) -> None:
    writer = GuardedWriter(store, MAPPINGS, quarantine, 1)
    await writer.write([publish(N1, Stamp(5, 1), note()), publish(note_identity("n2"), Stamp(5, 1), None)])
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
