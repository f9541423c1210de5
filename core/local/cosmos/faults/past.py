"""Shows a container as it was, from the changes that were made since."""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Final, NamedTuple

from core.local.cosmos.faults.actions import ByTime, ByVersions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    from core.local.cosmos.faults.actions import Behind
    from core.local.cosmos.state.container import Container
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

    def lsn_of(self, behind: Behind, random: Random, current: int, now: float) -> int:
        """Return the LSN of a replica that is `behind` LSN `current` at `now` (seconds since the epoch)."""
        match behind:
            case ByVersions(least=least, most=most):
                return max(self.floor, current - random.randint(least, most))
            case ByTime(duration=duration):
                latest = now - duration.draw(random)
                older = (commit.lsn for commit in reversed(self._commits) if commit.time <= latest)
                return next(older, self.floor)

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


def remember(container: Container) -> None:
    """Keep the changes of a container from now on."""
    for partition in container.partitions:
        if partition.past is None:
            partition.past = Past(partition.lsn)


def forget(container: Container) -> None:
    """Keep the changes of a container no longer."""
    for partition in container.partitions:
        partition.past = None


def with_replicas(container: Container, replicas: Sequence[PhysicalPartition]) -> Container:
    """Return a view of the container in which the `replicas` stand for their partitions; not to be written to."""
    view = copy(container)
    by_id = {replica.id: replica for replica in replicas}
    view.arrange([by_id.get(partition.id, partition) for partition in container.partitions])
    return view
