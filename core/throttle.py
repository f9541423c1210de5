"""Keeps a long pass over Cosmos DB within a budget of request units, to leave the rest to the application."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Throttle:
    """Says how long to rest after what was charged.

    Args:
        ru_per_second: request units a second, None for any number.
        pause_s: the rest after each page in any case, in seconds.
        clock: monotonic seconds.

    """

    def __init__(
        self, ru_per_second: float | None, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = ru_per_second
        self._pause_s = pause_s
        self._clock = clock
        self._owed = 0.0
        self._at = clock()

    def spend(self, charge: float) -> None:
        """Count request units."""
        now = self._clock()
        if self._rate is not None:
            self._owed = max(0.0, self._owed - (now - self._at) * self._rate) + charge
        self._at = now

    def charged(self, headers: Mapping[str, object], _operations: int) -> None:
        """Count what an answer says that it cost; see core.cosmos.documents.Charged."""
        self.spend(float(str(headers.get("x-ms-request-charge", 0))))

    def rest_s(self) -> float:
        """Return how many seconds to rest before the next page, so that the budget is kept."""
        self.spend(0.0)
        return self._pause_s + (self._owed / self._rate if self._rate is not None else 0.0)
