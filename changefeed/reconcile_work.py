"""What all steps of a reconcile pass share: the stores, the turn, and how a piece of work is written down."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from changefeed.reconcile_state import ContainerReport, Counts, Step
from core.errors import ConflictError, PrimaryMovedError
from core.phases import Phase, PhaseState
from core.postgres.failures import translated
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from changefeed.mirror import Mirror
    from changefeed.reconcile_doubts import Looks
    from changefeed.reconcile_state import Round, Turn
    from core.cache.notices import Notices
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.settings import Settings
    from core.throttle import Throttle

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Work:
    """The tools of a pass.

    Args:
        engine: the database.
        store: the Cosmos DB database.
        mappings: all mappings of the process.
        settings: page size, lag window, share.
        documents: reads single documents in the session that reads the feed.
        mirror: the guarded write.
        turn: the right to do it.
        throttle: told what Cosmos DB charges.
        clock: seconds since 1970.
        notices: tells a cache of what is gone.

    """

    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    settings: Settings
    documents: Looks
    mirror: Mirror
    turn: Turn
    throttle: Throttle
    clock: Callable[[], float]
    notices: Notices
    caught_up: set[tuple[int, str]] = field(default_factory=set)
    """Turns and containers in which a look sees whatever was there when the rows were read."""

    async def catch_up(self, at: Round) -> None:
        """Let looks at the container under way see what was there when its rows were read, once in a turn."""
        key = self.turn.token, at.todo[0]
        if key not in self.caught_up:
            await self.documents.catch_up(at.todo[0])
            self.caught_up.clear()
            self.caught_up.add(key)

    async def apply(self, at: Round, documents: Sequence[Document], phase: PhaseRow) -> None:
        """Give documents to the guarded write, unless nothing is to be changed."""
        if documents and not at.dry:
            await self.mirror.apply(at.todo[0], documents, phase, self.turn.renew)

    async def finish(self, at: Round, *, refused: bool) -> None:
        """Be done with the container under way."""
        report = ContainerReport(at.todo.pop(0), refused, at.counts)
        at.reports.append(report)
        at.step, at.counts, at.place = Step.BEGIN, Counts(), {}
        is_complete = not (at.todo or at.dry) and set(at.wanted) == set(self.mappings.containers)

        async def write(connection: AsyncConnection) -> None:
            await self.turn.clear(connection)
            if is_complete:
                await self.turn.complete(connection)

        await self.save(at, write)
        log.info(
            "reconcile.container_done",
            container=report.container,
            refused=refused,
            dry_run=at.dry,
            **{name: count for name, count in dataclasses.asdict(report.counts).items() if count},
        )

    async def save(self, at: Round, write: Callable[[AsyncConnection], Awaitable[None]] | None = None) -> None:
        """Write something together with where the round is by then; what was not written is not counted."""
        counts = dataclasses.replace(at.counts)
        try:
            with translated(f"reconciling {at.wanted}"):
                async with self.engine.begin() as connection:
                    if write is not None:
                        await write(connection)
                    await self.turn.save(connection, at)
        except BaseException:
            at.counts = counts
            raise

    async def phase(self, at: Round | None = None) -> PhaseRow:
        """Read the phase.

        Raises:
            ConflictError: there is nothing to reconcile in this phase, or not while a switch drains.
            PrimaryMovedError: the epoch is not that of the pass any more.

        """
        with translated("reading the phase"):
            async with self.engine.connect() as connection:
                phase = await read_phase(connection)
        if phase.phase is Phase.POSTGRES_ONLY:
            msg = f"in phase {phase.phase.label} the two stores are not kept in step: nothing to reconcile"
            raise ConflictError(msg)
        if phase.state is PhaseState.DRAINING:
            msg = f"a switch is under way in phase {phase.phase.label}; reconcile when it has ended"
            raise ConflictError(msg)
        if at is not None and phase.epoch != at.epoch:
            msg = f"epoch {phase.epoch} was opened while a pass of epoch {at.epoch} was under way"
            raise PrimaryMovedError(msg)
        return phase
