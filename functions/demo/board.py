"""What the demo shows while it runs: the one object that it writes and every view reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Share = Callable[[], float]
"""How much of a stage is done, from 0 to 1."""


@dataclass(slots=True)
class Stage:
    """One stage under way, and what is to be said of it when it has ended."""

    title: str
    done: Share
    started: float
    outcome: str = ""


@dataclass(slots=True)
class Board:
    """The stage under way, what is behind it, and the counters by their names, in the order to show them."""

    counters: Callable[[], dict[str, str]] = dict
    stage: Stage | None = None
    finished: list[str] = field(default_factory=list)

    @contextmanager
    def during(self, title: str, *, done: Share | None = None, seconds: float | None = None) -> Iterator[Stage]:
        """Show a stage: how far it is by `done`, or by the time that it takes."""
        started = time.perf_counter()

        def by_time() -> float:
            return min(1.0, (time.perf_counter() - started) / seconds) if seconds else 0.0

        self.stage = stage = Stage(title, done or by_time, started)
        yield stage
        self.finished.append(f"{title}: {time.perf_counter() - started:.1f} s{stage.outcome}")
        self.stage = None
