"""Keeps the time of a server still while a model compares."""

from __future__ import annotations

from core.local.cosmos.clock import Clock


class StillClock(Clock):
    """Stands still between the steps of a script."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def now(self) -> float:
        return self.start + self.offset
