"""Applies one batch of documents from the change feed to Postgres, in one transaction with whatever acknowledges it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from core.postgres.failures import translated
from core.postgres.guarded import DocumentReader, Outcome, apply_documents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.mapping import EntityMapping
    from core.phases import PhaseRow


class Acknowledge(Protocol):
    """What has to become durable together with a batch."""

    async def __call__(self, connection: AsyncConnection) -> None:
        """Write it in the batch's own transaction; an error rolls the batch back."""
        ...


async def _nothing(connection: AsyncConnection) -> None:
    """Acknowledge by returning, as a trigger of Azure Functions does."""


class Mirror:
    """The way of every document from Cosmos DB to Postgres, whoever reads the feed.

    It runs in every phase: what is an echo, a late or a rogue write is decided by the guarded write.

    Args:
        engine: from core.postgres.engine.open_engine.
        reader: reads single documents in a session that has seen everything the feed has shown.

    """

    def __init__(self, engine: AsyncEngine, reader: DocumentReader) -> None:
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._reader = reader

    async def apply(
        self,
        mapping: EntityMapping[Any],
        documents: Sequence[Document],
        phase: PhaseRow,
        acknowledge: Acknowledge = _nothing,
    ) -> Outcome:
        """Apply one batch of one container: all of it, or nothing and an error.

        May be repeated with the same documents. A document that is itself at fault becomes a dead letter in the same
        transaction, so only infrastructure and conflicts raise.

        Args:
            mapping: the container's mapping.
            documents: with their system properties, in feed order.
            phase: the phase row, read before the documents were read from the feed.
            acknowledge: made durable with the batch.

        Raises:
            PrimaryMovedError: phase or epoch have moved since; read both the phase and the documents again.
            ConcurrencyError: a deadlock was broken, or somebody else has acknowledged; repeat.
            StoreUnavailableError: Postgres, or Cosmos DB where a document had to be read by key; repeat.

        """
        with translated(f"mirroring {len(documents)} documents of {mapping.container!r}"):
            async with self._engine.begin() as connection:
                outcome = await apply_documents(connection, mapping, documents, phase, self._reader)
                await acknowledge(connection)
                return outcome
