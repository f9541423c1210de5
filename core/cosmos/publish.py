"""What the guarded write to Cosmos DB is asked for, what it answers, and where it puts what it replaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from core.envelope import Origin, stamped
from core.errors import DocumentRefusedError

if TYPE_CHECKING:
    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.stamp import Stamp


@dataclass(slots=True)  # not frozen, which makes it take three times as long: there is one for every document
class Publish:
    """One state to write, as the finished document (see `publish_state`); nobody changes it.

    Args:
        identity: whose state.
        stamp: its place in the order.
        document: what is stored, checked and stamped.
        taken_etag: the `_etag` that the row took last from Cosmos DB, None if it never did.
        deleted: whether the document is a tombstone.
        loaded_in: the epoch in which it was loaded; Postgres was primary then, and this was its state.

    """

    identity: Identity
    stamp: Stamp
    document: Document = field(repr=False)
    taken_etag: str | None = None
    deleted: bool = field(kw_only=True)
    loaded_in: int = field(kw_only=True)


def publish_state(  # noqa: PLR0913 - what a state is made of
    mapping: EntityMapping[Any],
    identity: Identity,
    stamp: Stamp,
    content: Document | None,
    *,
    taken_etag: str | None,
    loaded_in: int,
    tombstone_ttl_s: int | None = None,
) -> Publish:
    """Finish a state: check that Cosmos DB can hold it and that it is who it says, and stamp it.

    Args:
        mapping: of its entity type.
        identity: whose state.
        stamp: its place in the order.
        content: the document's content, None for a deleted one.
        taken_etag: see Publish.
        loaded_in: see Publish.
        tombstone_ttl_s: how long the tombstone of a deleted one lives, in seconds.

    Raises:
        DocumentRefusedError: Cosmos DB will never take it.

    """
    deleted = content is None
    if content is None:
        assert tombstone_ttl_s is not None, "a tombstone needs its life"
        content = mapping.tombstone_content(identity, tombstone_ttl_s)
    elif mapping.identity(content) != identity:
        msg = f"the content belongs to {mapping.identity(content)}"
        raise DocumentRefusedError(msg)
    mapping.check(content)
    document = stamped(content, stamp, Origin.POSTGRES, deleted=deleted)
    return Publish(identity, stamp, document, taken_etag, deleted=deleted, loaded_in=loaded_in)


@dataclass(frozen=True, slots=True)
class Written:
    """The state is in Cosmos DB now, under this ETag."""

    etag: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The very same state (equal stamp, verified) was there already."""

    etag: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer state is there; nothing was written."""

    found: Stamp


@dataclass(frozen=True, slots=True)
class Refused:
    """Cosmos DB will never take this document; `status` is None where it was not even sent. Holds no payload."""

    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """Infrastructure kept failing for this document while others were written; nothing is known against the document.

    It may even have been written. `retry_after_s` is how long Cosmos DB asked to wait, in seconds, if it did.
    """

    reason: str
    retry_after_s: float | None = None


Outcome = Written | Unchanged | Superseded | Refused | Postponed


class Quarantine(Protocol):
    """Stands between a state and what no stamp protects from it: foreign documents, and places without a document.

    A state that was loaded before a flip may come very late. What the new primary wrote itself has no stamp of ours
    to refuse it with, so before either is touched Postgres is asked whether it still is primary in the same epoch.
    """

    async def untaken(self, item: Publish, found: Document) -> Stamp | None:
        """Keep a document that Postgres never took, before `item` replaces it; again with the same one after a crash.

        Returns:
            None: it was kept. Else the stamp of a newer state that Postgres holds by now: then nothing was kept, and
            `item` must not be written; the newer state comes with a message of its own.

        Whether Postgres still is primary is read afresh, after `found` was read: then `found` was written while it
        was, and If-Match refuses to replace anything that was written later.

        Raises:
            PrimaryMovedError: Postgres is not primary any more, or in another epoch; nothing may be replaced.
            TransientError: it could not be kept; nothing may be replaced.

        """
        ...

    async def confirm(self, item: Publish) -> None:
        """Say that `item` was loaded in the epoch that is still open, or was a moment ago.

        Raises:
            PrimaryMovedError: Postgres is not primary any more, or in another epoch; `item` must not be written.
            TransientError: it could not be found out.

        """
        ...
