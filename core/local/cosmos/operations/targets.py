"""Finds out which part of a container a request reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from core.local.cosmos.errors import bad_request, gone, not_found
from core.local.cosmos.state.epk import MAX_EPK, MIN_EPK
from core.local.cosmos.state.partition_key import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.cosmos.messages import Request
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.epk import PartitionKeyValue
    from core.local.cosmos.state.partition import Document, PhysicalPartition

SESSION = "Session"
WEAKER_LEVELS = frozenset({"ConsistentPrefix", "Eventual"})
_SESSION_TOKEN = re.compile(r"([0-9]+):(?:-?[0-9]+#)?([0-9]{1,18})(?:#[0-9]+=-?[0-9]+)*", re.ASCII)
_number_of = attrgetter("rid")
_MANY = 1000
_RARE = 100


@dataclass(frozen=True, slots=True)
class Target:
    """Partitions, a range of effective partition keys, perhaps one logical partition by its `key`.

    `scoped` says that the client named a partition, a range or a key; without it a query crosses partitions.
    """

    partitions: list[PhysicalPartition]
    minimum: str = MIN_EPK
    maximum: str = MAX_EPK
    key: bytes | None = None
    scoped: bool = True

    def documents(self) -> Iterator[Document]:
        """Iterate over all documents, partition by partition."""
        for partition in self.partitions:
            yield from self.documents_in(partition)

    def documents_in(self, partition: PhysicalPartition, after: int = 0) -> Iterator[Document]:
        """Iterate over the documents of one partition with a number above `after`, in the order of their numbers."""
        if self.key is not None:
            found = partition.logical.get(self.key, {})
            if len(found) > _MANY and len(found) * _RARE > len(partition.by_rid):
                # To sort them all for every page would take the longer the more pages there are.
                yield from (document for document in partition.scan(after) if document.key == self.key)
                return
            yield from sorted((d for d in found.values() if d.rid > after), key=_number_of)
            return
        everything = self.minimum <= partition.minimum and partition.maximum <= self.maximum
        for document in partition.scan(after):
            if everything or self.minimum <= document.epk < self.maximum:
                yield document


def logical_partition(key: PartitionKeyValue, container: Container) -> Target:
    """Return one logical partition."""
    return Target([container.partition_of(container.key_definition.epk(key))], key=canonical(key))


def named_partition(range_id: str, container: Container, minimum: str, maximum: str) -> PhysicalPartition:
    """Return the partition that a request names and that holds keys of `[minimum, maximum)`.

    Raises:
        CosmosError: 410/1002 for one that is gone, or that lies elsewhere: the client knows another container's ranges.
    """
    partition = container.partition_by_id(range_id.rpartition(",")[2])
    if not (partition.minimum < maximum and minimum < partition.maximum):
        message = f"The partition key range {range_id} does not hold the requested effective partition keys."
        raise gone(message)
    return partition


def target_of(request: Request, container: Container) -> Target:
    """Return what a request reads.

    Raises:
        CosmosError: 400 for a bad partition key, 410/1002 for a partition key range that is gone.
    """
    headers = request.headers
    key = container.key_definition.of_header(headers.get("x-ms-documentdb-partitionkey"))
    if key is not None and container.key_definition.is_whole(key):
        return logical_partition(key, container)
    minimum = headers.get("x-ms-start-epk", MIN_EPK).upper()
    maximum = headers.get("x-ms-end-epk", MAX_EPK).upper()
    if key:
        minimum = container.key_definition.epk(key)
        maximum = minimum + MAX_EPK
    range_id = headers.get("x-ms-documentdb-partitionkeyrangeid")
    if range_id is not None:
        return Target([named_partition(range_id, container, minimum, maximum)], minimum, maximum)
    scoped = "x-ms-start-epk" in headers or key is not None
    return Target(container.overlapping(minimum, maximum), minimum, maximum, scoped=scoped)


def check_session(request: Request, partition: PhysicalPartition) -> None:
    """Refuse a read that has seen more than this partition has.

    A token is `range:version#lsn#region=lsn…` or `range:lsn`, and several are separated by commas. What was seen of a
    partition counts for those that it was split into; a read with a weaker consistency level has no session.

    Raises:
        CosmosError: 400 for a token that is malformed, 404/1002 for one that is ahead.
    """
    token = request.headers.get("x-ms-session-token")
    if not token or request.headers.get("x-ms-consistency-level", SESSION) != SESSION:
        return
    for part in token.split(","):
        parsed = _SESSION_TOKEN.fullmatch(part.strip())
        if parsed is None:
            message = f"The session token provided {token!r} is invalid."
            raise bad_request(message)
        seen_in, seen = parsed.groups()
        if (seen_in == partition.id or seen_in in partition.parents) and int(seen) > partition.lsn:
            raise not_found("The read session is not available for the input session token.", 1002)
