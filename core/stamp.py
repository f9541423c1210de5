"""The order of a document's states: (epoch, version), never version alone."""

from __future__ import annotations

from typing import NamedTuple


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

    A point read knows no `_lsn`; it counts as (`_ts`, AFTER_ALL).
    """

    ts: int
    lsn: int


AFTER_ALL = 2**63 - 1
"""The `_lsn` of a point read: it saw at least what any feed page of that second showed (fits a Postgres bigint)."""
