"""Finds what the change feed cannot show, or has shown in vain: documents that are gone, lost, or left behind.

A round is one pass (changefeed.reconcile_pass) over each container. It may be killed at any line, by this process or by
its machine, and the next one goes on where it was; two processes never work at it at the same time.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from changefeed.mirror import Mirror
from changefeed.reconcile_pass import Pass
from changefeed.reconcile_state import ContainerReport, Turn, TurnLostError
from changefeed.reconcile_work import Work
from core.cache.notices import Notices
from core.cosmos.documents import CosmosDocuments
from core.cosmos.failures import CosmosUnavailableError
from core.errors import ConcurrencyError, ConflictError, PrimaryMovedError, TransientError
from core.phases import Phase, PhaseState
from core.postgres.engine import ending_silence
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from core.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.reconcile_state import Round
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.progress import Progress
    from core.settings import Settings

log = structlog.get_logger()

STALE_S: Final = 24 * 3600.0
"""A round that nobody has worked at for so long, in seconds, is begun anew."""

ATTEMPTS: Final = 10
"""How often in a row a store may fail until the caller hears of it."""

_LONGEST_WAIT_S: Final = 5.0


class TooManyMissingError(ConflictError):
    """More rows have no document than a pass removes by itself: a container was emptied, or is another account's."""


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What a round came to. Not `finished`: it was stopped, and the next run goes on where it was."""

    finished: bool
    dry_run: bool
    containers: tuple[ContainerReport, ...]


class Reconcile:
    """The reconcile passes of one installation.

    Args:
        engine: the database; two connections are in use.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        settings: `reconcile_…`.
        clock: seconds since 1970.
        notices: tells a cache of what was found; without it nobody does.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        notices: Notices | None = None,
    ) -> None:
        notices = notices or Notices()
        silent = ending_silence(engine, settings.reconcile_lease_s)
        self._engine = silent.execution_options(isolation_level="READ COMMITTED")
        self._mappings = mappings
        self._settings = settings
        self._turn = Turn(self._engine, settings.reconcile_lease_s)
        throttle = Throttle(settings.reconcile_ru_per_second, settings.reconcile_pause_ms / 1000)
        documents = CosmosDocuments(store, mappings, throttle.charged)
        mirror = Mirror(self._engine, documents, mappings, notices=notices)
        work = Work(self._engine, store, mappings, settings, documents, mirror, self._turn, throttle, clock, notices)
        self._pass = Pass(work)

    async def run(
        self,
        progress: Callable[[Progress], None] = lambda _: None,
        stop: asyncio.Event | None = None,
        *,
        containers: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> ReconcileReport:
        """Do a round, or end one that was begun with the same arguments.

        Args:
            progress: told how far each step is.
            stop: when set, the piece at hand is ended, and the report is of an unfinished round.
            containers: the names of those to look at, None for all.
            dry_run: look at everything, and change nothing in the mapped tables.

        Raises:
            TooManyMissingError: in one of them more rows had no document than may be removed; none of it was. The
                others are done.
            ConflictError: another process is at it, or there is nothing to reconcile in this phase.
            MappingError: a container has no mapping.
            TransientError: a store failed again and again; run it again, it goes on.

        """
        wanted = list(containers) if containers is not None else list(self._mappings.containers)
        for name in wanted:
            self._mappings.in_container(name)
        is_over = stop.is_set if stop is not None else lambda: False
        if not await self._turn.take():
            raise await self._turn.refuse()
        async with self._releasing():
            at = await self._turn.load()
            if not at.todo or at.idle_s > STALE_S or (at.wanted, at.dry) != (wanted, dry_run):
                at = await self._turn.begin(wanted, dry=dry_run)
            at = await self._work(at, progress, is_over)
            self._complain(at)
            return ReconcileReport(not at.todo, at.dry, tuple(at.reports))

    async def step(self, budget_s: float, stop: asyncio.Event | None = None) -> bool:
        """Work for about `budget_s` seconds, as a timer does; return whether the round goes on.

        A new round begins `reconcile_every_s` after the last one over everything ended.

        Args:
            budget_s: seconds.
            stop: ends it before.

        Raises:
            TooManyMissingError: as `run`, once at the end of the round.
            TransientError: a store failed again and again; the next step goes on.

        """
        if not await self._is_needed() or not await self._turn.take():
            return False
        async with self._releasing():
            at = await self._turn.load()
            if not at.todo or at.idle_s > STALE_S or at.dry:
                if at.completed_s is not None and at.completed_s < self._settings.reconcile_every_s:
                    return False
                at = await self._turn.begin(list(self._mappings.containers), dry=False)
            deadline = time.monotonic() + budget_s
            is_stopped = stop.is_set if stop is not None else lambda: False
            at = await self._work(
                at, lambda _: None, lambda: is_stopped() or time.monotonic() >= deadline, until=deadline
            )
            if not at.todo:
                self._complain(at)
            return bool(at.todo)

    async def _work(
        self,
        at: Round,
        progress: Callable[[Progress], None],
        is_over: Callable[[], bool],
        *,
        until: float = float("inf"),
    ) -> Round:
        """Work until nothing is left, it is over, or the next piece is due after `until` (monotonic seconds)."""
        failures, is_spoiled = 0, False
        while at.todo and not is_over():
            try:
                if is_spoiled:  # what was not written down must not be gone on from
                    at, is_spoiled = await self._turn.load(), False
                wait_s = await self._pass.advance(at, progress, is_over)
                failures = 0
            except TurnLostError:
                raise
            except PrimaryMovedError as error:
                log.info("reconcile.restarted", container=at.todo[0], why=str(error))
                at = await self._turn.load()
                await self._pass.restart(at)
                continue
            except (TransientError, ConcurrencyError) as error:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                log.warning("reconcile.repeated", attempt=failures, why=str(error))
                asked = error.retry_after_s if isinstance(error, CosmosUnavailableError) else None
                wait_s = asked if asked is not None else min(0.05 * 2**failures, _LONGEST_WAIT_S)
                is_spoiled = True
            if time.monotonic() + wait_s > until:
                break
            await self._rest(wait_s, is_over)
        return at

    async def _rest(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Wait, and keep the turn meanwhile."""
        end = time.monotonic() + seconds
        longest = self._turn.lease_s / 4
        while (left := end - time.monotonic()) > 0 and not is_over():
            await asyncio.sleep(min(left, longest, 0.25))
            if left > longest:
                with translated("keeping the turn at the reconcile pass"):
                    async with self._engine.begin() as connection:
                        await self._turn.renew(connection)

    async def _is_needed(self) -> bool:
        with translated("reading the phase"):
            async with self._engine.connect() as connection:
                phase = await read_phase(connection)
        return phase.phase is not Phase.POSTGRES_ONLY and phase.state is PhaseState.STEADY

    @asynccontextmanager
    async def _releasing(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with suppress(TransientError):  # then it runs out
                await self._turn.release()

    def _complain(self, at: Round) -> None:
        refused = [one for one in at.reports if one.refused]
        if at.todo or not refused:
            return
        share = self._settings.reconcile_max_removed_share
        named = "; ".join(f"{one.container}: {one.counts.doubted} of {one.counts.rows} rows" for one in refused)
        msg = (
            f"too many rows have no document ({named}; at most {share:.0%} are removed): was a container emptied, or is"
            " this another account? Nothing was removed there. If they are to go: crossfeed reconcile"
            " --max-removed-share 1 (CROSSFEED_RECONCILE_MAX_REMOVED_SHARE)"
        )
        raise TooManyMissingError(msg)
