"""Leaves a Redis alone that does nothing any more, so that its timeouts are paid by few reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from core.cache.stats import CacheStats

log = structlog.get_logger()

FAILURES: Final = 3
FIRST_OPEN_S: Final = 0.25
LONGEST_OPEN_S: Final = 5.0


class Breaker:
    """Opens after FAILURES in a row, for a time that doubles; then lets one call at a time try.

    Args:
        stats: its `breaker` is the state.
        clock: monotonic seconds.
        random: spreads the attempts of many processes.

    """

    def __init__(self, stats: CacheStats, clock: Callable[[], float], random: Random) -> None:
        self._stats = stats
        self._clock = clock
        self._random = random
        self._failures = 0
        self._open_s = FIRST_OPEN_S
        self._open_until = 0.0

    def admits(self) -> bool:
        """Whether a call may be made now; it then says `worked` or `failed`."""
        if self._stats.breaker == "closed":
            return True
        if self._clock() < self._open_until:
            return False
        self._turn("half-open")
        self._open_until = self._clock() + self._open_s  # of a try that never says how it went
        return True

    def worked(self) -> None:
        """Redis has answered."""
        self._failures = 0
        if self._stats.breaker != "closed":
            self._open_s = FIRST_OPEN_S
            self._turn("closed")

    def failed(self) -> None:
        """Redis has not answered, or not to the point."""
        self._failures += 1
        if self._failures < FAILURES and self._stats.breaker == "closed":
            return
        self._open_until = self._clock() + self._random.uniform(0.5, 1.0) * self._open_s
        if self._stats.breaker != "open":
            self._open_s = min(LONGEST_OPEN_S, self._open_s * 2)
            self._turn("open")

    def _turn(self, state: str) -> None:
        if state != self._stats.breaker:
            self._stats.breaker = state
            log.warning("cache.breaker", state=state)
