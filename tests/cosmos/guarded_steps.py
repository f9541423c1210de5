"""Steps that the tests of the guarded write have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.cosmos.guarded import GuardedWriter, Outcome, Publish
from core.cosmos.publish import publish_state
from core.identity import Identity
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, N1, NOTES, Kept, note, note_identity

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore


def publish(
    identity: Identity, stamp: Stamp, content: Document | None, taken: str | None = None, ttl_s: int = 3600
) -> Publish:
    """A state of an entity of the example, loaded in epoch 1."""
    mapping = MAPPINGS.named(identity.entity)
    return publish_state(mapping, identity, stamp, content, taken_etag=taken, loaded_in=1, tombstone_ttl_s=ttl_s)


def state(epoch: int, version: int, title: str = "", *, id_: str = "n1", taken: str | None = None) -> Publish:
    return publish(note_identity(id_), Stamp(epoch, version), note(id_, Title=title), taken)


def gone(epoch: int, version: int) -> Publish:
    return publish(N1, Stamp(epoch, version), None)


def writer_on(store: CosmosStore, quarantine: Kept | None = None) -> GuardedWriter:
    """A writer that has seen nothing yet and repeats nothing, with a quarantine of its own unless it is given one."""
    return GuardedWriter(store, MAPPINGS, quarantine or Kept(), concurrency=8, patience_s=0.0)


def line_identity(number: int, account: str = "a") -> Identity:
    return Identity.of("Line", [account], f"l{number}")


def line(number: int, version: int, *, account: str = "a", text: str = "", code: str | None = None) -> Publish:
    content = {"id": f"l{number}", "accountId": account, "Text": text, "Code": code or f"c{number}"}
    return publish(line_identity(number, account), Stamp(1, version), content)


def lines(count: int, version: int, account: str = "a") -> list[Publish]:
    return [line(number, version, account=account) for number in range(count)]


async def one(writer: GuardedWriter, item: Publish) -> Outcome:
    [outcome] = await writer.write([item])
    return outcome


async def foreign(store: CosmosStore, **content: Any) -> str:
    """Write a document as somebody else does; its etag."""
    stored = await store.container(NOTES).upsert_item(note(**content))
    return str(stored["_etag"])
