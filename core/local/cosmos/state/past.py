"""Shows a physical partition as it was, from the changes that were made since."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from core.local.cosmos.state.partition import Change, PhysicalPartition

MAX_CHANGES: Final = 50_000
_KEPT_VIEWS: Final = 4


class _Commit(NamedTuple):
    lsn: int
    time: float
    changes: Sequence[Change]


class Past:
    """The last changes of a physical partition since LSN `floor`, at most `MAX_CHANGES`: the oldest are forgotten."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._commits: deque[_Commit] = deque()
        self._count = 0
        self._views: dict[int, PhysicalPartition] = {}

    def record(self, lsn: int, time: float, changes: Sequence[Change]) -> None:
        """Remember what was committed under `lsn` at `time` (seconds since the epoch)."""
        self._commits.append(_Commit(lsn, time, changes))
        self._count += len(changes)
        while self._count > MAX_CHANGES:
            oldest = self._commits.popleft()
            self._count -= len(oldest.changes)
            self.floor = oldest.lsn

    def documents_move(self) -> None:
        """Forget the views, which share what is about to change; it may be undone, and never recorded."""
        self._views.clear()

    def part(self, covers: Callable[[str], bool]) -> Past:
        """Return the past of a child partition, which `covers` some of the effective partition keys."""
        part = Past(self.floor)
        for commit in self._commits:
            changes = [c for c in commit.changes if any(d is not None and covers(d.epk) for d in (c.old, c.new))]
            part.record(commit.lsn, commit.time, changes)
        return part

    def last_before(self, time: float) -> int:
        """Return the LSN of what was last committed by `time` (seconds since the epoch), the floor if nothing was."""
        return next((commit.lsn for commit in reversed(self._commits) if commit.time <= time), self.floor)

    def view(self, partition: PhysicalPartition, lsn: int, now: float) -> PhysicalPartition:
        """Return the partition as it was at `lsn`, without what has expired by `now`; not to be written to."""
        view = self._views.pop(lsn, None)
        if view is None:
            view = partition.earlier(self._after(lsn), lsn, now)
        self._views[lsn] = view
        if len(self._views) > _KEPT_VIEWS:
            del self._views[next(iter(self._views))]
        return view

    def _after(self, lsn: int) -> Iterator[Change]:
        for commit in reversed(self._commits):
            if commit.lsn <= lsn:
                return
            yield from reversed(commit.changes)
