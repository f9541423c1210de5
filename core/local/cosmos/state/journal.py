"""Says what an account asks of whatever keeps it beyond this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from core.local.cosmos.state.account import Database
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import Change, PhysicalPartition


class Journal(Protocol):
    """Takes down every change, one call per change, before it is seen in memory.

    When a method returns, the change outlives the process. All of them raise CosmosError 500 if it could not be
    stored: then nothing of it is, and it must not happen in memory either.
    """

    def close(self) -> None:
        """Stop; every change is refused from then on."""
        ...

    def documents_changed(
        self, container: Container, partition: PhysicalPartition, changes: list[Change], now: float, *, trimmed: bool
    ) -> None:
        """Store what one transaction changes in a partition; `trimmed`: the partition has just dropped old history."""
        ...

    def history_kept(self, container: Container) -> None:
        """Store that a container keeps its history from now on."""
        ...

    def partitions_replaced(
        self, container: Container, parents: list[PhysicalPartition], children: list[PhysicalPartition]
    ) -> None:
        """Store that `children` take the place of `parents`; documents and their history go with their keys."""
        ...

    def container_created(self, container: Container, offer: dict[str, Any] | None) -> None:
        """Store a container that has no documents, with its offer if it has one of its own."""
        ...

    def container_changed(self, container: Container, properties: dict[str, Any]) -> None:
        """Store a container's new properties."""
        ...

    def container_deleted(self, container: Container) -> None:
        """Remove a container with all that is in it."""
        ...

    def database_created(self, database: Database, offer: dict[str, Any] | None) -> None:
        """Store a database that has no containers, with its offer if it has one."""
        ...

    def database_deleted(self, database: Database) -> None:
        """Remove a database with all its containers."""
        ...

    def offer_changed(self, offer: dict[str, Any]) -> None:
        """Store an offer's new content."""
        ...
