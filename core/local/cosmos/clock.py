"""Gives the server its time, so that tests can move it."""

from __future__ import annotations

import time


class Clock:
    """The system's UTC clock plus an offset in seconds that tests may change at any moment."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`; a negative value steps it back."""
        self.offset += seconds
