"""What the cache is told by whoever wrote, or learnt of a write: the port beside the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.content import Document
    from core.identity import Identity
    from core.stamp import Stamp


@dataclass(frozen=True, slots=True)
class Changed:
    """A document that was written or deleted, told after it became durable.

    Attributes:
        identity: of the document.
        stamp: of the write (of the tombstone, for a delete), or an older one of the same document; None: unknown.
        deleted: whether it was deleted.
        content: the new content where it is at hand, so that look-ups of its values are invalidated too; it may hold
            system properties. None: unknown, or deleted.

    """

    identity: Identity
    stamp: Stamp | None
    deleted: bool = False
    content: Document | None = field(default=None, repr=False)


class Invalidator(Protocol):
    """Takes what was written out of the cache.

    Telling twice, late or in another order does no harm: what is newer than the change told is kept. A change that is
    not told, or lost on its way, is noticed when the entry's time is over.
    """

    async def changed(self, changes: Sequence[Changed]) -> None:
        """Invalidate; returns within CROSSFEED_CACHE_TIMEOUT_MS and raises nothing when Redis does not do its part."""
        ...
