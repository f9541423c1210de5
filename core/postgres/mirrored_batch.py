"""What all steps of one guarded write share, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from core.postgres.failures import describe, driver_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.errors import DocumentRefusedError
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.authority import Apply, Change, Take


@dataclass(slots=True)
class Outcome:
    """What one guarded write did, counted in documents, and in events that were new."""

    applied: int = 0
    buried: int = 0
    taken: int = 0
    ignored: int = 0
    quarantined: int = 0
    dead_lettered: int = 0
    parked: int = 0
    reads_by_key: int = 0
    unmapped: int = 0
    events: int = 0


class DocumentReader(Protocol):
    """Reads one document of Cosmos DB by its key, in a session that has seen everything the feed has shown."""

    async def read(self, identity: Identity) -> Document | None:
        """Return the document with its system properties, or None where there is none."""
        ...

    async def reach(self, container: str, epoch: int) -> None:
        """Let no read of this container from now on be older than the opening of an epoch.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """One guarded write."""

    connection: AsyncConnection
    mappings: Mappings
    phase: PhaseRow
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class FeedBatch(Batch):
    """One guarded write of what a feed has shown: where that alone does not say what is current, `reader` is asked."""

    reader: DocumentReader
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Write:
    """What was decided to be written."""

    mapping: EntityMapping[Any]
    change: Change
    decision: Apply | Take


def reason_of(error: DBAPIError | DocumentRefusedError) -> str:
    """Say why a document was refused, without its values."""
    cause = driver_error(error)
    return describe(cause) if cause is not None else str(error)
