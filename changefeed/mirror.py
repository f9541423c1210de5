"""Applies one batch of documents from the change feed to Postgres, in one transaction with whatever acknowledges it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from changefeed.noticed import changes_of
from changefeed.traced import record_mirrored
from core.cache.notices import Notices
from core.errors import CrossfeedError
from core.postgres.failures import translated
from core.postgres.guarded import apply_documents
from core.postgres.mirror_parking import MirrorPatience
from core.postgres.mirror_retry import retry_parked
from core.postgres.prepared import let_prepare
from core.postgres.watermarks_seen import record_barrier_marks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.authority import Change
    from core.postgres.mirrored_batch import DocumentReader, Outcome


PAUSE_S = 0.2
"""Seconds between two tries beside batches at least."""
PAUSE_SHARE = 4
"""How many times as long as a try took is waited until the next: a batch must not pay for a crowd that is parked."""


class Acknowledge(Protocol):
    """What has to become durable together with a batch."""

    async def __call__(self, connection: AsyncConnection) -> None:
        """Write it in the batch's own transaction; an error rolls the batch back."""
        ...


@dataclass(slots=True)
class Pace:
    """When what is parked may be tried beside a batch again, in monotonic seconds."""

    next_try: float = 0.0


async def _nothing(connection: AsyncConnection) -> None:
    """Acknowledge by returning, as a trigger of Azure Functions does."""


class Mirror:
    """The way of every document from Cosmos DB to Postgres, whoever reads the feed.

    It runs in every phase: what is an echo, a late or a rogue write is decided by the guarded write.

    Args:
        engine: from core.postgres.engine.open_engine.
        reader: reads single documents in a session that has seen everything the feed has shown.
        mappings: all mappings of the process.
        patience: how often and how soon what is parked is tried again.
        retried: told what came of parked documents that were tried again.
        pace: of the tries beside batches; shared by those who make a mirror for every batch.
        notices: tells a cache of what was mirrored; without it nobody does.
        monotonic: seconds, for the pauses between two of them.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        engine: AsyncEngine,
        reader: DocumentReader,
        mappings: Mappings,
        patience: MirrorPatience = MirrorPatience(),  # noqa: B008 - immutable
        *,
        retried: Callable[[Outcome], None] = lambda _: None,
        pace: Pace | None = None,
        notices: Notices | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._reader = reader
        self._mappings = mappings
        self._patience = patience
        self._retried = retried
        self._monotonic = monotonic
        self._pace = pace or Pace()
        self._notices = notices or Notices()

    async def apply(
        self,
        container: str,
        documents: Sequence[Document],
        phase: PhaseRow,
        acknowledge: Acknowledge = _nothing,
    ) -> Outcome:
        """Apply one batch of one container: all of it, or nothing and an error.

        May be repeated with the same documents. A document that is itself at fault becomes a dead letter in the same
        transaction, so only infrastructure and conflicts raise.

        Args:
            container: the container's name.
            documents: with their system properties, in feed order.
            phase: the phase row, read before the documents were read from the feed.
            acknowledge: made durable with the batch.

        Raises:
            PrimaryMovedError: phase or epoch have moved since; read both the phase and the documents again.
            ConcurrencyError: a deadlock was broken, or somebody else has acknowledged; repeat.
            StoreUnavailableError: Postgres, or Cosmos DB where a document had to be read by key; repeat.

        """
        began = time.time_ns()
        shown: list[Change] = []
        with translated(f"mirroring {len(documents)} documents of {container!r}"):
            async with self._engine.begin() as connection:
                await let_prepare(connection)
                outcome = await apply_documents(
                    connection,
                    self._mappings,
                    container,
                    documents,
                    phase,
                    self._reader,
                    patience=self._patience,
                    shown=shown,
                )
                await record_barrier_marks(connection, container, documents)
                await acknowledge(connection)
        record_mirrored(shown, phase, outcome, began)
        async with self._notices.meanwhile(changes_of(shown, phase) if self._notices.is_on else ()):
            if outcome.applied or outcome.buried:
                await self._retry_beside(phase)
        return outcome

    async def retry_parked(self, phase: PhaseRow, *, eager: bool = False) -> bool:
        """Try again what is parked and due, as it is now; cheap if nothing is.

        Args:
            phase: the phase row, read before.
            eager: try also what is not due yet.

        Returns:
            Whether that may have made more possible: call again at once.

        Raises:
            PrimaryMovedError: phase or epoch have moved since.
            ConcurrencyError: a deadlock was broken.
            StoreUnavailableError: one of the stores did not answer.

        """
        began = self._monotonic()
        try:
            with translated("trying parked documents again"):
                async with self._engine.begin() as connection:
                    await let_prepare(connection)
                    outcome, more = await retry_parked(
                        connection, self._mappings, phase, self._reader, self._patience, eager=eager
                    )
        finally:
            now = self._monotonic()
            self._pace.next_try = now + max(PAUSE_S, (now - began) * PAUSE_SHARE)
        self._retried(outcome)
        return more

    async def _retry_beside(self, phase: PhaseRow) -> None:
        """Try again what the batch just committed may have made possible; whatever fails here is tried again later."""
        if self._monotonic() < self._pace.next_try:
            return
        with suppress(CrossfeedError):
            while await self.retry_parked(phase, eager=True):
                pass
