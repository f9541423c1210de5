"""The order of a document's states: (epoch, version), never version alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stamp(NamedTuple):
    """The place of one state in the order of its document; compares as a tuple.

    The epoch grows at every step between phases and at every detected failover; the version grows by
    exactly one per write under the row lock of the primary.
    """

    epoch: int
    version: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.version}"


class Position(NamedTuple):
    """Where a document stood in the change feed: `_ts` (seconds since 1970), then `_lsn` of its physical partition.

    A point read counts as (`_ts`, `_lsn` of its whole replica), or (`_ts`, AFTER_ALL) where that is not known.
    """

    ts: int
    lsn: int


AFTER_ALL = 2**63 - 1
"""The `_lsn` of a point read that told none: it saw at least what a feed page of that second showed (fits a bigint)."""


def is_later(one: Position, other: Position) -> bool:
    """Whether of two states of a document the one that came later is the newer; clocks step back, `_lsn` does not."""
    if max(one.lsn, other.lsn) < AFTER_ALL:
        return one.lsn >= other.lsn
    return one >= other


def position_of(document: Mapping[str, Any]) -> Position:
    """Return where a document with its system properties stood; one without `_lsn` came from a reader of no feed."""
    return Position(int(document.get("_ts", 0)), int(document.get("_lsn", AFTER_ALL)))
