"""Takes from Postgres what it can give: fewer batches at once than it has connections, smaller ones when it is slow."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TARGET_S = 0.5
"""How long a batch may take, from wanting a connection to its commit, before the next ones are smaller."""
SMALLEST_PAGE = 10
_KEPT_FREE = 4
"""Connections for heartbeats, probes and what waits beside the feeds, which must not wait behind batches."""


class Pressure:
    """How many batches of one process may be under way at once.

    Args:
        connections: that its engine may open.
        clock: seconds.

    """

    def __init__(self, connections: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._permits = asyncio.Semaphore(max(1, connections - _KEPT_FREE))
        self._clock = clock
        self.under_way = 0

    @asynccontextmanager
    async def batch(self, pace: Pace) -> AsyncIterator[None]:
        """Wait until there is room for one more batch; tell the pace how long everything took, also if it failed."""
        begun = self._clock()
        try:
            async with self._permits:
                self.under_way += 1
                try:
                    yield
                finally:
                    self.under_way -= 1
        finally:
            pace.took(self._clock() - begun)


class Pace:
    """The page size and the pauses of one feed range: what is slow becomes small, and after that rare.

    A range whose batches are slow leaves the others their connections: it waits as long as its last batch took.

    Args:
        largest: documents a page may hold.

    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._smallest = min(SMALLEST_PAGE, largest)
        self.page_size = largest
        self.pause_s = 0.0

    def took(self, seconds: float) -> None:
        """Learn from one batch."""
        if seconds > TARGET_S:
            self.pause_s = min(seconds, 10 * TARGET_S) if self.page_size == self._smallest else 0.0
            self.page_size = max(self._smallest, self.page_size // 2)
        else:
            self.pause_s = 0.0
            if seconds < TARGET_S / 2:
                self.page_size = min(self._largest, self.page_size * 2)
