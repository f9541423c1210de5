"""Counts request units against a budget."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from core.local.cosmos.faults.actions import Budget


class _Bucket:
    __slots__ = ("at", "level")

    def __init__(self, level: float, at: float) -> None:
        self.level = level
        self.at = at


class Buckets:
    """The token buckets of one budget: one per owner, full when it is first seen.

    Times are seconds of a monotonic clock.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._buckets: dict[Hashable, _Bucket] = {}

    def _bucket(self, owner: Hashable, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(owner, _Bucket(self._budget.burst, now))
        filled = bucket.level + (now - bucket.at) * self._budget.ru_per_second
        bucket.level, bucket.at = min(filled, self._budget.burst), now
        return bucket

    def wait(self, owners: Collection[Hashable], now: float) -> int | None:
        """Return the milliseconds until none of the owners' buckets is overdrawn, None if none is."""
        deficit = -min((self._bucket(owner, now).level for owner in owners), default=1.0)
        return None if deficit < 0 else max(1, ceil(deficit / self._budget.ru_per_second * 1000))

    def spend(self, owners: Collection[Hashable], charge: float, now: float) -> None:
        """Take a `charge` in request units, shared by the owners."""
        for owner in owners:
            self._bucket(owner, now).level -= charge / len(owners)
