"""Says what every answer about documents carries: where it came from, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import Document, PhysicalPartition


def read_charge(size: int) -> float:
    """Return the request units of reading `size` bytes."""
    return float(max(1, -(-size // 1024)))


def write_charge(size: int) -> float:
    """Return the request units of writing `size` bytes."""
    return 4.95 + 1.34 * max(1, -(-size // 1024))


def partition_headers(partition: PhysicalPartition, container: Container) -> dict[str, str]:
    """Return the headers that tell a client about the partition that answered."""
    path = container.path
    return {
        "lsn": str(partition.lsn),
        "x-ms-session-token": f"{partition.id}:-1#{partition.lsn}",
        "x-ms-documentdb-partitionkeyrangeid": partition.id,
        "x-ms-alt-content-path": path,
        "x-ms-content-path": container.properties["_rid"],
    }


def document_headers(document: Document, partition: PhysicalPartition, container: Container) -> dict[str, str]:
    """Return the headers of a response that carries a document."""
    return {"etag": document.etag, **partition_headers(partition, container)}
