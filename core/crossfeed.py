"""The library's front door: a unit of work on whichever store is the primary now."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from core.cache.client import open_cache
from core.cache.unit_of_work import CachedUnitOfWork
from core.cosmos.documents import CosmosDocuments
from core.cosmos.lazy import LazyCosmos
from core.cosmos.noted_phase import read_noted_phase
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.cosmos.write_gate import Ungated
from core.envelope import Origin
from core.errors import ConfigurationError, PhasePinnedError, PrimaryMovedError, TransientError
from core.mappings import Mappings
from core.migration.routing import Routing
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.engine import open_engine
from core.postgres.failures import translated
from core.postgres.fit import check_fit
from core.postgres.schema import check_schema
from core.postgres.unit_of_work import PostgresUnitOfWork
from core.postgres.write_lease import WriteLease
from core.read_only import ReadOnlyUnitOfWork
from core.recorded_phase import RecordedPhase, UnrecordedPhase
from core.transact import transact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cache.client import Cache
    from core.cache.stats import CacheStats
    from core.mapping import EntityMapping
    from core.migration.shadow import ShadowReads
    from core.recorded_phase import PhaseSource
    from core.repository import UnitOfWork
    from core.settings import Settings

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Both:
    """What a process has that knows Postgres too."""

    engine: AsyncEngine
    lease: WriteLease
    routing: Routing


@dataclass(frozen=True, slots=True)
class Figures:
    """How a process stands. `phase`: as it was read lately, None if it was not.

    `write_lease_left_s`: seconds until it stops writing to Cosmos DB unless renewed, 0.0 without a lease; None without
    Postgres, where no lease is needed.
    """

    phase: PhaseRow | None
    write_lease_left_s: float | None


class Crossfeed:
    """Both stores behind one door; make it with `Crossfeed.open`.

    async with Crossfeed.open(settings, [CUSTOMERS]) as db, db.unit_of_work() as work:
        await work[Customer].add(Customer(id="c1"))
        await work.commit()

    """

    def __init__(  # noqa: PLR0913 - what `open` has opened
        self,
        settings: Settings,
        mappings: Mappings,
        phases: PhaseSource,
        cosmos: LazyCosmos,
        both: _Both | None = None,
        *,
        cache: Cache | None = None,
    ) -> None:
        self._settings = settings
        self._mappings = mappings
        self._phases = phases
        self._cosmos = cosmos
        self._both = both
        self._cache = cache

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, mappings: Mappings | Iterable[EntityMapping[Any]]
    ) -> AsyncIterator[Crossfeed]:
        """Connect, and check that schema, tables and containers are what this process expects.

        Cosmos DB is opened at once while it is the primary. While Postgres is, an application starts without it, with
        a warning in the log: the relay is who needs it then.

        A process that is pinned to phase `cosmos_only` and has no CROSSFEED_POSTGRES_DSN runs on Cosmos DB alone. No
        switch can stop its writes, so it is started again, with Postgres, before that phase is left.

        Args:
            settings: `Settings.load()`.
            mappings: all mappings of the application.

        Raises:
            ConfigurationError: a store cannot be reached, or what is there does not fit; the message names the cure.
            StoreUnavailableError: a store failed while it was looked at.

        """
        known = mappings if isinstance(mappings, Mappings) else Mappings(mappings)
        alone = settings.phase is Phase.COSMOS_ONLY and settings.postgres_dsn is None
        open_ = _on_cosmos_alone if alone else _on_both
        async with open_cache(settings, known) as cache, open_(settings, known, cache) as db:
            yield db

    async def phase(self) -> PhaseRow:
        """Return the recorded phase, at most PHASE_AGE_S old; what the settings say, without Postgres.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        return await self._phases.read()

    @property
    def figures(self) -> Figures:
        """What this process knows of itself, for metrics (core.metrics); asks no store."""
        both = self._both
        return Figures(self._phases.lately(), None if both is None else max(0.0, both.lease.left_s))

    @property
    def shadow(self) -> ShadowReads | None:
        """The counts of the shadow reads (CROSSFEED_SHADOW_READ_SHARE); None without Postgres."""
        return None if self._both is None else self._both.routing.shadow

    @property
    def cache(self) -> CacheStats | None:
        """The counts of the read cache (CROSSFEED_CACHE_URL); None without one."""
        return None if self._cache is None else self._cache.stats

    async def transact(self, use_case: Callable[[UnitOfWork], Awaitable[T]], *, deadline_s: float | None = None) -> T:
        """Run a use case in a unit of work, and again in a new one as long as it was refused before it wrote anything.

        async def rename(work: UnitOfWork) -> None:
            account = await work[Account].get_by_id("acc-1")
            ...
            await work[Account].update(account)
            await work.commit()

        await db.transact(rename)

        It is repeated after a ConcurrencyError (serialization failures among them) and after a PrimaryMovedError (but
        a PhasePinnedError), so that its callers notice no more of a switch than its pause. Everything else goes
        through, as does what is raised after a commit of the same run that may have written. A use case may run
        several times, so its effects are the writes of its unit of work.

        Args:
            use_case: commits by itself; what it does not commit is rolled back.
            deadline_s: seconds after which no new run begins; CROSSFEED_TRANSACT_DEADLINE_S by default. A run under way
                is not cut short.

        Returns:
            What the use case returned.

        Raises:
            ConflictError: as the use case raised it last, or for another reason than the two above.
            OutcomeUnknownError: a commit was sent and never answered, or answered after the right to write had ended.
            StoreUnavailableError: a store did not answer.

        """
        deadline = self._settings.transact_deadline_s if deadline_s is None else deadline_s
        return await transact(self.unit_of_work, use_case, deadline)

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """Begin a unit of work on the primary; leaving it without `commit` rolls back.

        A process that pins a phase in its settings reads in any phase, and writes in that one alone.

        Raises:
            PrimaryMovedError: at a write, if this process is pinned to another phase or a switch is draining writers;
                at the end, if the primary moved meanwhile. Begin again.
            ConfigurationError: Cosmos DB is needed for the first time and is not what this process expects.
            StoreUnavailableError: Postgres did not answer.

        """
        phase = await self.phase()
        try:
            async with self._begin(phase) as work:
                yield work
        except PrimaryMovedError:
            self._phases.forget()
            raise

    @asynccontextmanager
    async def _begin(self, phase: PhaseRow) -> AsyncIterator[UnitOfWork]:
        both = self._both
        if phase.primary is Origin.POSTGRES and both is not None:
            async with (
                PostgresUnitOfWork(both.engine, self._mappings, pin=self._settings.phase) as on_postgres,
                self._cached(both.routing.routed(on_postgres, phase), phase) as work,
            ):
                yield work
            return
        store = await self._cosmos.store()
        ttl_s = self._settings.tombstone_ttl_s
        gate = Ungated() if both is None else both.lease
        verified = self._cache is not None
        async with CosmosUnitOfWork(
            store, self._mappings, phase.epoch, ttl_s, gate=gate, verified=verified
        ) as on_cosmos:
            routed = on_cosmos if both is None else both.routing.routed(on_cosmos, phase)
            why = self._why_refused(phase)
            reading = routed if why is None else ReadOnlyUnitOfWork(routed, why)
            async with self._cached(reading, phase, CosmosDocuments(store, self._mappings).catch_up) as work:
                yield work

    @asynccontextmanager
    async def _cached(
        self, work: UnitOfWork, phase: PhaseRow, catch_up: Callable[[str], Awaitable[object]] | None = None
    ) -> AsyncIterator[UnitOfWork]:
        if self._cache is None:
            yield work
            return
        async with CachedUnitOfWork(work, self._cache, phase, catch_up) as cached:
            yield cached

    def _why_refused(self, phase: PhaseRow) -> Callable[[], PrimaryMovedError] | None:
        pinned = self._settings.phase
        if pinned is not None and pinned is not phase.phase:
            msg = f"this process is pinned to phase {pinned.label}, the recorded phase is {phase.phase.label}"
            return partial(PhasePinnedError, msg)
        if phase.state is PhaseState.DRAINING:
            return partial(PrimaryMovedError, f"a switch is draining the writers of phase {phase.phase.label}")
        return None


async def _check_cosmos(cosmos: LazyCosmos, phase: PhaseRow) -> None:
    if phase.phase is Phase.POSTGRES_ONLY:
        return
    try:
        await cosmos.store()
    except (ConfigurationError, TransientError) as error:
        if phase.primary is Origin.COSMOS:
            raise
        log.warning("crossfeed.cosmos_not_ready", reason=str(error))


@asynccontextmanager
async def _on_both(settings: Settings, mappings: Mappings, cache: Cache | None) -> AsyncIterator[Crossfeed]:
    async with open_engine(settings) as engine, LazyCosmos(settings, mappings) as cosmos:
        with translated("checking the schema"):
            async with engine.connect() as connection:
                await check_schema(connection)
                await check_fit(connection, mappings)
        phases = RecordedPhase(engine)
        await _check_cosmos(cosmos, await phases.read())
        lease = WriteLease(engine, settings.write_lease_s, poll_s=settings.write_poll_ms / 1000)
        async with Routing(engine, mappings, cosmos.store, settings) as routing, aclosing(lease):
            yield Crossfeed(settings, mappings, phases, cosmos, _Both(engine, lease, routing), cache=cache)


@asynccontextmanager
async def _on_cosmos_alone(settings: Settings, mappings: Mappings, cache: Cache | None) -> AsyncIterator[Crossfeed]:
    async with LazyCosmos(settings, mappings) as cosmos:
        noted = await read_noted_phase(await cosmos.store())
        if noted.phase is not Phase.COSMOS_ONLY:
            msg = (
                f"without Postgres a process runs in phase {Phase.COSMOS_ONLY.label} alone, and phase"
                f" {noted.phase.label} was opened (epoch {noted.epoch}): set CROSSFEED_POSTGRES_DSN"
            )
            raise ConfigurationError(msg)
        yield Crossfeed(settings, mappings, UnrecordedPhase(noted), cosmos, cache=cache)
