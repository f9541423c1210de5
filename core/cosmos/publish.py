"""What the guarded write to Cosmos DB is asked for, what it answers, and where it puts what it replaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from core.content import Document
    from core.identity import Identity
    from core.stamp import Stamp


@dataclass(frozen=True, slots=True)
class Publish:
    """One state to write.

    Args:
        identity: whose state.
        stamp: its place in the order.
        content: the document's content, None for a deleted one.
        taken_etag: the `_etag` that the row took last from Cosmos DB, None if it never did.
        loaded_in: the epoch in which it was loaded; Postgres was primary then, and this was its state.

    """

    identity: Identity
    stamp: Stamp
    content: Document | None
    taken_etag: str | None = None
    loaded_in: int = field(kw_only=True)


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


Outcome = Written | Unchanged | Superseded | Refused


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
