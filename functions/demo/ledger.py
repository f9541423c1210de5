"""Keeps every write that a store has acknowledged, and which of them were then seen in the other store."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from core.envelope import Origin
from core.reservoir import quantile

if TYPE_CHECKING:
    from core.content import Document
    from core.identity import Identity
    from core.stamp import Stamp


class Kind(StrEnum):
    """What a write did to its document."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Write:
    """One acknowledged write.

    Args:
        identity: the document's key.
        kind: what was done.
        origin: the store that acknowledged it.
        stamp: its place in the order; None for a foreign write, which has none. Of a delete the least that it can be: a
            step may have been made while it was under way.
        etag: what Cosmos DB called the state, if it was written there.
        content: the content from now on; None after a delete.
        at: when the acknowledgement was back, in seconds of the demo's clock.

    """

    identity: Identity
    kind: Kind
    origin: Origin
    stamp: Stamp | None
    etag: str | None
    content: Document | None
    at: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """A state that an observer saw in a store, by stamp and ETag as far as the store shows them, and when."""

    stamp: Stamp | None
    etag: str | None
    at: float

    def covers(self, write: Write) -> bool:
        """Whether this is the state of the write, or a newer one."""
        if write.stamp is None:
            return self.etag == write.etag
        return self.stamp is not None and self.stamp >= write.stamp


@dataclass(slots=True)
class Lags:
    """Seconds from acknowledgement to sighting; those of a bulk load, and across a time apart, stand apart."""

    steady: list[float] = field(default_factory=list)
    bulk: list[float] = field(default_factory=list)

    def milliseconds(self, share: float) -> float:
        """Return a quantile of the steady traffic, or of the load where there was nothing else."""
        return round(quantile(self.steady or self.bulk, share) * 1000, 1)


def other(store: Origin) -> Origin:
    """Return the store on the other side."""
    return Origin.COSMOS if store is Origin.POSTGRES else Origin.POSTGRES


class Ledger:
    """What was written, and what was carried. Nothing here is derived from what should be.

    `waiting` is how many writes were not seen in the other store yet; `settled` is set while there are none. `foreign`
    are documents of which somebody else has written a state.
    """

    def __init__(self) -> None:
        self.written: Counter[Kind] = Counter()
        self.carried = 0
        self.waiting = 0
        self.settled = asyncio.Event()
        self.latest: dict[Identity, Write] = {}
        self.foreign: set[Identity] = set()
        self.lags: dict[Origin, Lags] = {origin: Lags() for origin in Origin}
        self._apart: list[tuple[float, float]] = []
        self._waiting: dict[Origin, dict[Identity, list[Write]]] = {origin: defaultdict(list) for origin in Origin}
        self._seen: dict[Origin, dict[Identity, Sighting]] = {origin: {} for origin in Origin}

    def part(self, at: float) -> None:
        """The stores are not kept in step from now on."""
        self._apart.append((at, inf))

    def rejoin(self, at: float) -> None:
        """They are again, if they were not."""
        if self._apart:
            self._apart[-1] = (self._apart[-1][0], at)

    def is_waiting_for(self, store: Origin) -> bool:
        """Whether a write was not seen in `store` yet."""
        return bool(self._waiting[store])

    def waiting_for(self, store: Origin, limit: int) -> list[Identity]:
        """Return documents of which a write was not seen in `store` yet, those that wait longest first."""
        return list(islice(self._waiting[store], limit))

    def acknowledged(self, write: Write) -> None:
        """Take down a write that its store has acknowledged."""
        self.written[write.kind] += 1
        if write.stamp is None:
            self.foreign.add(write.identity)
        known = self.latest.get(write.identity)
        if known is None or known.stamp is None or (write.stamp is not None and write.stamp >= known.stamp):
            self.latest[write.identity] = write
        self.waiting += 1
        self.settled.clear()
        target = other(write.origin)
        sighting = self._seen[target].get(write.identity)
        if sighting is not None and sighting.covers(write):  # the observer was faster than the acknowledgement
            self._carry(write, sighting)
        else:
            self._waiting[target][write.identity].append(write)

    def seen(self, store: Origin, identity: Identity, sighting: Sighting) -> None:
        """Take down what an observer saw in a store."""
        self._seen[store][identity] = sighting
        waiting = self._waiting[store].pop(identity, [])
        still = [write for write in waiting if not sighting.covers(write)]
        if still:
            self._waiting[store][identity] = still
        for write in waiting:
            if sighting.covers(write):
                self._carry(write, sighting)

    def _carry(self, write: Write, sighting: Sighting) -> None:
        self.carried += 1
        self.waiting -= 1
        if not self.waiting:
            self.settled.set()
        lags = self.lags[write.origin]
        was_apart = any(write.at < until and sighting.at > since for since, until in self._apart)
        is_steady = write.stamp is not None and not was_apart
        (lags.steady if is_steady else lags.bulk).append(max(0.0, sighting.at - write.at))
