"""Learns from how long batches take how large they may be, and how long to rest between them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGET_S = 0.5
"""How long a batch may take, from wanting a connection to its commit, before the next ones are smaller."""
SMALLEST_PAGE = 10


class Pace:
    """The page size and the pauses of one feed range, or of one backfill: what is slow becomes small, then rare.

    A range whose batches are slow leaves the others their connections: it waits as long as its last batch took.

    Args:
        largest: documents a page may hold.
        clock: monotonic seconds.

    """

    def __init__(self, largest: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
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

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Learn from the batch that is the block, also if it fails."""
        begun = self._clock()
        try:
            yield
        finally:
            self.took(self._clock() - begun)
