"""Remembers, within bounds, which document is where: so that in steady state a write needs no read before it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.cosmos.publish import Publish, Superseded

if TYPE_CHECKING:
    from core.identity import Identity
    from core.stamp import Stamp


@dataclass(frozen=True, slots=True)
class Seen:
    """The document that is there: replace exactly this one. `stamp` is None where it cannot be trusted."""

    etag: str
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no document: create it. `looked` says whether a read found that, or it is only likely."""

    looked: bool


View = Seen | Absent


class Views:
    """What was last seen of each document; forgetting costs a read, and so does being wrong.

    Args:
        most: how many documents are remembered.

    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[Identity, Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def expected(self, item: Publish) -> View | Superseded | None:
        """Say what is there without asking, as far as that is known; None: look.

        Version 1 was just inserted and is created outright; any other has most likely been there before, and reading
        it first costs two round trips where a failing create costs three.
        """
        seen = self._seen.get(item.identity)
        if seen is None or seen.stamp is None:
            return Absent(looked=False) if item.stamp.version == 1 else None
        if item.stamp < seen.stamp:
            return Superseded(seen.stamp)
        # An equal one may have been overwritten by a foreign writer since: only reading it tells.
        return seen if item.stamp > seen.stamp else None

    def keep(self, identity: Identity, seen: Seen) -> None:
        """Remember a document of ours that was written or read."""
        self._seen[identity] = seen
        self._seen.move_to_end(identity)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def forget(self, identity: Identity) -> None:
        """Say that what is remembered of a document may be wrong."""
        self._seen.pop(identity, None)
