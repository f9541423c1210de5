"""Keeps what the relay finds in its way and Postgres never took, before it is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from core.envelope import Ours, author_of
from core.postgres import dead_letters
from core.postgres.authority import LATE_WRITE, ROGUE_WRITE
from core.postgres.dead_letters import DeadLetter, Direction
from core.postgres.failures import translated
from core.postgres.guarded import quarantine_reason

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.identity import Identity
    from outbox.stats import RelayStats

log = structlog.get_logger()


class LetterQuarantine:
    """The port `core.cosmos.publish.Quarantine` by dead letters: the mirror's letter of the same write is the same."""

    def __init__(self, engine: AsyncEngine, stats: RelayStats) -> None:
        self._engine = engine
        self._stats = stats

    async def untaken(self, identity: Identity, document: Document) -> None:
        """Keep a document in a transaction of its own; one incident is one letter, however often it is kept.

        Raises:
            StoreUnavailableError: Postgres did not take it.

        """
        kind = LATE_WRITE if isinstance(author_of(document), Ours) else ROGUE_WRITE
        letter = DeadLetter(Direction.TO_POSTGRES, kind, identity, quarantine_reason(document), document)
        with translated(f"quarantining {identity.entity} {identity.id!r}"):
            async with self._engine.begin() as connection:
                is_new = await dead_letters.record(connection, letter)
        if is_new:
            self._stats.quarantined += 1
            log.warning("relay.quarantined", kind=kind, entity=identity.entity, document_id=identity.id)
