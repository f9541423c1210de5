"""Takes from Postgres what it can give: fewer batches at once than it has connections."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from core.pace import Pace

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
