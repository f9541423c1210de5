"""What the guarded write to Cosmos DB is asked for, what it answers, and where it puts what it replaces."""

from __future__ import annotations

from dataclasses import dataclass
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

    """

    identity: Identity
    stamp: Stamp
    content: Document | None
    taken_etag: str | None = None


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
    """Keeps what Postgres never took, a foreign or a late write, before the guarded write replaces it."""

    async def untaken(self, identity: Identity, document: Document) -> None:
        """Keep the document durably; called before it is replaced, and again with the same one after a crash.

        Raises:
            TransientError: it could not be kept; the document is then not replaced.

        """
        ...
