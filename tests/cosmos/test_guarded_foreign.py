"""A guarded write never replaces a foreign document without keeping it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import GuardedWriter, Publish, Written
from core.envelope import Origin, stamped
from core.stamp import Stamp
from tests.cosmos.example import N1, NOTES, Kept, note
from tests.cosmos.guarded_steps import foreign, one, state, writer_on
from tests.cosmos.steps import raw

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments


async def test_a_foreign_document_is_kept_before_it_is_replaced(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, quarantine: Kept
) -> None:
    await foreign(store, Title="rogue")
    assert isinstance(await one(writer, state(1, 2, "truth")), Written)
    assert [(identity, kept["Title"]) for identity, kept in quarantine.documents] == [(N1, "rogue")]
    assert (await raw(documents, N1))["Title"] == "truth"


async def test_a_foreign_document_that_the_row_has_taken_is_replaced_without_keeping_it(
    store: CosmosStore, writer: GuardedWriter, quarantine: Kept
) -> None:
    etag = await foreign(store, Title="taken over")
    assert isinstance(await one(writer, state(1, 2, "next", taken=etag)), Written)
    assert quarantine.documents == []


async def test_a_foreign_overwrite_of_our_document_is_noticed_in_steady_state(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, quarantine: Kept
) -> None:
    await one(writer, state(1, 1, "ours"))
    await foreign(store, Title="rogue")
    await one(writer, state(1, 2, "truth"))
    assert [kept["Title"] for _, kept in quarantine.documents] == ["rogue"]
    assert (await raw(documents, N1))["Title"] == "truth"


async def test_a_forged_stamp_is_not_trusted(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, quarantine: Kept
) -> None:
    forged = {**stamped(note(Title="a"), Stamp(9, 9), Origin.POSTGRES), "Title": "edited"}
    await store.container(NOTES).upsert_item(forged)
    assert isinstance(await one(writer, state(1, 2, "truth")), Written)
    assert len(quarantine.documents) == 1
    assert (await raw(documents, N1))["Title"] == "truth"


async def test_an_overwrite_with_the_same_stamp_is_healed_although_it_was_written_before(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 4, "truth"))
    await foreign(store, Title="rogue")
    assert isinstance(await one(writer, state(1, 4, "truth")), Written)
    assert (await raw(documents, N1))["Title"] == "truth"


async def test_nothing_is_replaced_when_the_foreign_document_could_not_be_kept(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    class Broken(Kept):
        async def untaken(self, item: Publish, found: Document) -> None:
            raise CosmosUnavailableError("no")

    await foreign(store, Title="rogue")
    with pytest.raises(CosmosUnavailableError):
        await one(writer_on(store, Broken()), state(1, 2, "truth"))
    assert (await raw(documents, N1))["Title"] == "rogue"
