"""Merges neighbouring physical partitions, as the service does for containers that have shrunk."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from core.local.cosmos.errors import bad_request
from core.local.cosmos.state.partition import PhysicalPartition

if TYPE_CHECKING:
    from core.local.cosmos.state.container import Container


def merge(container: Container, range_id: str) -> PhysicalPartition:
    """Merge a physical partition with the next one in the order of the keys and return what they become.

    Documents keep their LSNs, which the two gave independently; new ones follow the higher of both. So a position in
    the feed of a parent stays good for the parent's range of keys, but says nothing about that of the other.

    Raises:
        CosmosError: 410 for an unknown range, 400 for the last one or a container that keeps all versions, for which
            the service does not merge, 500 if it could not be stored.
    """
    left = container.partition_by_id(range_id)
    position = container.partitions.index(left)
    if position + 1 == len(container.partitions):
        message = f"There is no partition key range after {range_id} to merge it with."
        raise bad_request(message)
    if container.keeps_history:
        raise bad_request("Partitions with a change feed of all versions and deletes cannot be merged.")
    right = container.partitions[position + 1]
    parents = (*left.parents, left.id, *right.parents, right.id)
    lsn = max(left.lsn, right.lsn)
    merged = PhysicalPartition(str(container.next_range), left.minimum, right.maximum, parents, lsn=lsn)
    merged.generation = container.generation + 1
    merged.history_start = lsn
    alive = [document for parent in (left, right) for document in parent.log if document.live]
    merged.load(sorted(alive, key=attrgetter("lsn")))
    if container.journal is not None:
        container.journal.partitions_replaced(container, [left, right], [merged])
    container.generation += 1
    container.next_range += 1
    container.arrange([*container.partitions[:position], merged, *container.partitions[position + 2 :]])
    return merged
