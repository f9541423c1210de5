"""Shows how far a long command is: bars on a terminal, a line now and then anywhere else; always on stderr."""

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.progress import Progress

EVERY_S = 5.0
"""How often a step says how far it is where there is no terminal, in seconds."""


@contextmanager
def showing() -> "Iterator[Callable[[Progress], None]]":
    """Show each step, with the time that is left where the total is known."""
    from rich.console import Console  # noqa: PLC0415 - what `--help` need not load

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(print_line, time.monotonic).report
        return
    from rich.progress import Progress as Bars  # noqa: PLC0415 - what `--help` need not load
    from rich.progress import TaskID  # noqa: PLC0415 - what `--help` need not load

    tasks: dict[str, TaskID] = {}
    with Bars(*Bars.get_default_columns(), console=console) as bars:

        def report(progress: "Progress") -> None:
            total = progress.total or None
            if progress.step not in tasks:
                # What another run has done is not this one's speed.
                tasks[progress.step] = bars.add_task(progress.step, total=total, completed=progress.done)
            bars.update(tasks[progress.step], completed=progress.done, total=total)

        yield report


def print_line(line: str) -> None:
    """Print to stderr at once."""
    print(line, file=sys.stderr, flush=True)


@dataclass(slots=True)
class _Seen:
    began_at: float
    began_with: int
    said_at: float
    is_done: bool = False


class Lines:
    """Says how far each step is when it begins, every few seconds, and when it ends.

    Args:
        say: where the lines go.
        clock: monotonic seconds.

    """

    def __init__(self, say: "Callable[[str], None]", clock: "Callable[[], float]") -> None:
        self._say = say
        self._clock = clock
        self._steps: dict[str, _Seen] = {}

    def report(self, progress: "Progress") -> None:
        """Take note of how far a step is."""
        now = self._clock()
        seen = self._steps.get(progress.step)
        if seen is None:
            seen = self._steps[progress.step] = _Seen(now, progress.done, now)
        elif now - seen.said_at < EVERY_S and not (progress.done == progress.total and not seen.is_done):
            return
        seen.said_at, seen.is_done = now, progress.done == progress.total
        self._say(_line(progress, seen, now))


def _line(progress: "Progress", seen: _Seen, now: float) -> str:
    line = f"{progress.step}: {progress.done:,}"
    if progress.total:
        line += f" of {progress.total:,} ({progress.done / progress.total:.0%})"
    if now > seen.began_at and progress.done > seen.began_with:
        rate = (progress.done - seen.began_with) / (now - seen.began_at)
        line += f", {rate:,.0f}/s"
        if progress.total > progress.done:
            line += f", {timedelta(seconds=round((progress.total - progress.done) / rate))} left"
    return line
