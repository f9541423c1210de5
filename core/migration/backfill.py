"""Fills the other store beside live traffic: every document, or every row and tombstone, once, in small pieces.

Each piece goes through a guarded write, so that it can neither undo a newer state nor revive what was deleted, and is
written down before the next begins. It may be killed at any line; the next run goes on there. What is under way while
a switch drains waits, and what gets in the way of the live path rests until that has caught up.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, assert_never

import structlog

from core.cosmos.failures import CosmosUnavailableError
from core.errors import ConcurrencyError, PrimaryMovedError, TransientError
from core.migration.backfill_state import Counts, Target, Turn, TurnLostError
from core.migration.backfill_to_cosmos import ToCosmos
from core.migration.backfill_to_postgres import ToPostgres
from core.migration.live_lag import LiveLag
from core.pace import Pace
from core.phases import PhaseState
from core.postgres.engine import ending_silence
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from core.progress import Progress
from core.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.migration.backfill_state import Part, Run
    from core.migration.ports import Publisher
    from core.phases import PhaseRow
    from core.settings import Settings

log = structlog.get_logger()

ATTEMPTS: Final = 10
"""How often in a row a piece may fail until the caller hears of it."""

LOOK_S: Final = 2.0
"""How often the lag of the live path is looked at, in seconds."""

_LONGEST_WAIT_S: Final = 5.0
_DRAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a backfill came to. Not `finished`: it was stopped, and the next run goes on where it was."""

    target: Target
    finished: bool
    sources: tuple[str, ...]
    counts: Counts

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "to": self.target.value,
            "finished": self.finished,
            "sources": list(self.sources),
            **asdict(self.counts),
        }


class Backfill:
    """The backfills of one direction.

    Args:
        engine: the database; two connections are in use.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        settings: `backfill_…`.
        publisher: sends single documents, within the same budget of request units.
        target: the store that is filled.

    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is wired from
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        settings: Settings,
        publisher: Publisher,
        target: Target,
    ) -> None:
        self._engine = ending_silence(engine, settings.backfill_lease_s)
        self._settings = settings
        self._target = target
        self._lag = LiveLag(self._engine, store)
        self._turn = Turn(self._engine, target, settings.backfill_lease_s)
        pace = Pace(settings.backfill_page_size)
        self._way: ToPostgres | ToCosmos
        match target:
            case Target.POSTGRES:
                throttle = Throttle(settings.backfill_ru_per_second, 0.0)
                self._way = ToPostgres(self._engine, store, mappings, settings, self._turn, throttle, pace)
            case Target.COSMOS:
                self._way = ToCosmos(self._engine, mappings, self._turn, publisher, pace)
            case _:
                assert_never(target)
        self._looked_at = float("-inf")
        self._is_waiting = False

    async def run(
        self,
        progress: Callable[[Progress], None] = lambda _: None,
        stop: asyncio.Event | None = None,
        *,
        entities: Sequence[str] | None = None,
        restart: bool = False,
    ) -> BackfillReport:
        """Do a backfill, or go on with one that was begun with the same entity types.

        Args:
            progress: told how far it is.
            stop: when set, the piece at hand is ended, and the report is of an unfinished backfill.
            entities: the entity types to fill with, None for all.
            restart: begin anew whatever was left of one.

        Raises:
            ConflictError: another process is at it, or there is nothing to fill with in this phase.
            MappingError: an entity type has no mapping.
            TransientError: a store failed again and again; run it again, it goes on.

        """
        sources = self._way.sources(entities)
        self._way.check(await self._phase())
        await self._turn.take()
        async with self._releasing():
            run = None if restart else await self._turn.load()
            if run is None or run.wanted != sources:
                parts = [part for source in sources for part in await self._way.parts(source)]
                run = await self._turn.begin(sources, parts)
            total = await self._way.total(sources)
            is_finished = await self._work(run, total, progress, stop or asyncio.Event())
            if is_finished:
                await self._turn.end()
        log.info("backfill.done", to=self._target.value, finished=is_finished, **asdict(run.counts))
        return BackfillReport(self._target, is_finished, tuple(sources), run.counts)

    async def _work(self, run: Run, total: int, progress: Callable[[Progress], None], stop: asyncio.Event) -> bool:
        """Work until nothing is left, or it is stopped; return whether nothing is left."""
        failures = 0
        while not stop.is_set():
            try:
                part = await self._turn.next_part()
                if part is None:
                    return True
                rest_s = await self._piece(part, run)
                failures = 0
            except TurnLostError:
                raise
            except (TransientError, ConcurrencyError, PrimaryMovedError) as error:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                log.warning("backfill.repeated", to=self._target.value, attempt=failures, why=str(error))
                asked = error.retry_after_s if isinstance(error, CosmosUnavailableError) else None
                rest_s = asked if asked is not None else min(0.05 * 2**failures, _LONGEST_WAIT_S)
            progress(Progress(f"backfill to {self._target.value}", run.counts.read, max(total, run.counts.read)))
            await self._rest(rest_s, stop)
        return False

    async def _piece(self, part: Part, run: Run) -> float:
        """Do the next piece, if nothing speaks against it; return how long to rest, in seconds."""
        phase = await self._phase()
        self._way.check(phase)
        if phase.state is PhaseState.DRAINING:
            return _DRAIN_S
        if not await self._may_go_on(part, phase):
            return LOOK_S / 2
        return await self._way.piece(part, phase, run)

    async def _may_go_on(self, part: Part, phase: PhaseRow) -> bool:
        """Say whether the live path keeps up; looks now and then only, unless it did not the last time."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S or self._is_waiting:
            self._looked_at = now
            lag_s = await self._lag.seconds(self._target, part.source, phase)
            is_waiting = lag_s > self._settings.backfill_max_lag_s
            if is_waiting and not self._is_waiting:
                log.warning("backfill.waits", to=self._target.value, lag_s=round(lag_s, 1), of="the live path")
            self._is_waiting = is_waiting
        return not self._is_waiting

    async def _phase(self) -> PhaseRow:
        with translated("reading the phase"):
            async with self._engine.connect() as connection:
                return await read_phase(connection)

    async def _rest(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait, and keep the turn meanwhile."""
        longest = self._turn.lease_s / 4
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, longest)):
                    await stop.wait()
            if left > longest:
                with suppress(TransientError):
                    await self._turn.renew()

    @asynccontextmanager
    async def _releasing(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with suppress(TransientError):  # then it runs out
                await self._turn.release()
