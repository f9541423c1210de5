"""Steps that the tests of the guarded write have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.cosmos.guarded import GuardedWriter, Outcome, Publish
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, N1, NOTES, Kept, note, note_identity

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore


def state(epoch: int, version: int, title: str = "", *, id_: str = "n1", taken: str | None = None) -> Publish:
    return Publish(note_identity(id_), Stamp(epoch, version), note(id_, Title=title), taken, loaded_in=1)


def gone(epoch: int, version: int) -> Publish:
    return Publish(N1, Stamp(epoch, version), None, loaded_in=1)


def writer_on(store: CosmosStore, quarantine: Kept | None = None) -> GuardedWriter:
    """A writer that has seen nothing yet, with a quarantine of its own unless it is given one."""
    return GuardedWriter(store, MAPPINGS, quarantine or Kept(), tombstone_ttl_s=3600, concurrency=8)


async def one(writer: GuardedWriter, item: Publish) -> Outcome:
    [outcome] = await writer.write([item])
    return outcome


async def foreign(store: CosmosStore, **content: Any) -> str:
    """Write a document as somebody else does; its etag."""
    stored = await store.container(NOTES).upsert_item(note(**content))
    return str(stored["_etag"])
