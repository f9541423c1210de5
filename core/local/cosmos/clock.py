"""Gives the server its time, so that tests can move it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """The system's UTC clock plus an offset in seconds that tests may change at any moment.

    `observers` hear of a new offset before it counts; one that raises prevents it.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self.observers: list[Callable[[float], None]] = []

    @property
    def offset(self) -> float:
        """How far this clock is ahead of the system's, in seconds."""
        return self._offset

    @offset.setter
    def offset(self, seconds: float) -> None:
        for observe in self.observers:
            observe(seconds)
        self._offset = seconds

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self._offset

    def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`; a negative value steps it back."""
        self.offset += seconds
