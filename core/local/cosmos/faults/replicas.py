"""Lets replicas be behind: decides how far, and shows a container whose partitions are as they were."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from core.local.cosmos.faults.actions import ByTime, ByVersions
from core.local.cosmos.state.past import Past

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from core.local.cosmos.faults.actions import Behind
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import PhysicalPartition


def remember(container: Container) -> None:
    """Keep the changes of a container from now on."""
    for partition in container.partitions:
        if partition.past is None:
            partition.past = Past(partition.lsn)


def forget(container: Container) -> None:
    """Keep the changes of a container no longer."""
    for partition in container.partitions:
        partition.past = None


def lsn_behind(past: Past, behind: Behind, random: Random, current: int, now: float) -> int:
    """Return the LSN of a replica that is `behind` LSN `current` at `now` (seconds since the epoch)."""
    match behind:
        case ByVersions(least=least, most=most):
            return max(past.floor, current - random.randint(least, most))
        case ByTime(duration=duration):
            return past.last_before(now - duration.draw(random))


def with_replicas(container: Container, replicas: Sequence[PhysicalPartition]) -> Container:
    """Return a view of the container in which the `replicas` stand for their partitions; not to be written to."""
    view = copy(container)
    by_id = {replica.id: replica for replica in replicas}
    view.arrange([by_id.get(partition.id, partition) for partition in container.partitions])
    return view
