"""Finds out which part of a container a request reads."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from core.local.cosmos.epk import MAX_EPK, MIN_EPK
from core.local.cosmos.errors import not_found
from core.local.cosmos.partition_key import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.cosmos.container import Container
    from core.local.cosmos.epk import PartitionKeyValue
    from core.local.cosmos.messages import Request
    from core.local.cosmos.partition import Document, PhysicalPartition

_number_of = attrgetter("rid")


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
            found = partition.logical.get(self.key, {}).values()
            yield from sorted((d for d in found if d.rid > after), key=_number_of)
            return
        everything = self.minimum <= partition.minimum and partition.maximum <= self.maximum
        for document in partition.scan(after):
            if everything or self.minimum <= document.epk < self.maximum:
                yield document


def logical_partition(key: PartitionKeyValue, container: Container) -> Target:
    """Return one logical partition."""
    return Target([container.partition_of(container.key_definition.epk(key))], key=canonical(key))


def target_of(request: Request, container: Container) -> Target:
    """Return what a request reads.

    Raises:
        CosmosError: 400 for a bad partition key, 410/1002 for a partition key range that is gone.
    """
    headers = request.headers
    key = container.key_definition.of_header(headers.get("x-ms-documentdb-partitionkey"))
    if key and len(key) == len(container.key_definition.paths):
        return logical_partition(key, container)
    minimum = headers.get("x-ms-start-epk", MIN_EPK).upper()
    maximum = headers.get("x-ms-end-epk", MAX_EPK).upper()
    if key:
        minimum = container.key_definition.epk(key)
        maximum = minimum + MAX_EPK
    range_id = headers.get("x-ms-documentdb-partitionkeyrangeid")
    if range_id is not None:
        return Target([container.partition_by_id(range_id.rpartition(",")[2])], minimum, maximum)
    scoped = "x-ms-start-epk" in headers or key is not None
    return Target(container.overlapping(minimum, maximum), minimum, maximum, scoped=scoped)


def check_session(request: Request, partition: PhysicalPartition) -> None:
    """Refuse a read that has seen more than this partition has.

    Raises:
        CosmosError: 404/1002 if the session token is ahead.
    """
    token = request.headers.get("x-ms-session-token")
    if not token:
        return
    for part in token.split(","):
        range_id, _, rest = part.partition(":")
        if range_id == partition.id:
            lsn = rest.split("#")[1] if "#" in rest else rest
            if lsn.isdecimal() and int(lsn) > partition.lsn:
                raise not_found("The read session is not available for the input session token.", 1002)
