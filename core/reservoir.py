"""A bounded sample of any number of values, for quantiles that cost no memory."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Reservoir:
    """A uniform sample of everything that was added (Vitter's algorithm R).

    Args:
        size: how many values are kept.
        rng: where chance comes from.

    """

    def __init__(self, size: int = 4096, rng: random.Random | None = None) -> None:
        self._size = size
        self._rng = rng or random.Random()  # noqa: S311 - a sample, not a secret
        self.count = 0
        self.values: list[float] = []

    def add(self, value: float) -> None:
        """Take one more value into account."""
        self.count += 1
        if len(self.values) < self._size:
            self.values.append(value)
        elif (place := int(self._rng.random() * self.count)) < self._size:
            self.values[place] = value

    def quantile(self, share: float) -> float:
        """See `quantile`."""
        return quantile(self.values, share)


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie; 0.0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
