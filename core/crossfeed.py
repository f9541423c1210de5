"""The library's front door: a unit of work on whichever store is the primary now."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.envelope import Origin
from core.errors import ConfigurationError, PrimaryMovedError, TransientError
from core.mappings import Mappings
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.engine import open_engine
from core.postgres.failures import translated
from core.postgres.fit import check_fit
from core.postgres.phases import read_phase
from core.postgres.schema import check_schema
from core.postgres.unit_of_work import PostgresUnitOfWork
from core.read_only import ReadOnlyUnitOfWork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mapping import EntityMapping
    from core.repository import UnitOfWork
    from core.settings import Settings

log = structlog.get_logger()

PHASE_AGE_S: Final = 1.0
"""How long a phase that was read is believed, in seconds. Postgres fences older beliefs itself."""


class Crossfeed:
    """Both stores behind one door; make it with `Crossfeed.open`.

    async with Crossfeed.open(settings, [CUSTOMERS]) as db, db.unit_of_work() as work:
        await work[Customer].add(Customer(id="c1"))
        await work.commit()

    """

    def __init__(
        self,
        settings: Settings,
        mappings: Mappings,
        engine: AsyncEngine,
        stack: AsyncExitStack,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._mappings = mappings
        self._engine = engine
        self._stack = stack
        self._clock = clock
        self._store: CosmosStore | None = None
        self._phase: PhaseRow | None = None
        self._phase_read_at = 0.0
        self._lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, mappings: Mappings | Iterable[EntityMapping[Any]]
    ) -> AsyncIterator[Crossfeed]:
        """Connect, and check that schema, tables and containers are what this process expects.

        Cosmos DB is opened at once while it is the primary. While Postgres is, an application starts without it, with
        a warning in the log: the relay is who needs it then.

        Args:
            settings: `Settings.load()`.
            mappings: all mappings of the application.

        Raises:
            ConfigurationError: a store cannot be reached, or what is there does not fit; the message names the cure.
            StoreUnavailableError: a store failed while it was looked at.

        """
        known = mappings if isinstance(mappings, Mappings) else Mappings(mappings)
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(open_engine(settings))
            with translated("checking the schema"):
                async with engine.connect() as connection:
                    await check_schema(connection)
                    await check_fit(connection, known)
            db = cls(settings, known, engine, stack)
            await db._check_cosmos(await db.phase())
            yield db

    async def phase(self) -> PhaseRow:
        """Return the recorded phase, at most a second old.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        phase = self._phase
        if phase is None or self._clock() - self._phase_read_at > PHASE_AGE_S:
            read_at = self._clock()
            with translated("reading the phase"):
                async with self._engine.connect() as connection:
                    phase = await read_phase(connection)
            self._phase, self._phase_read_at = phase, read_at
        return phase

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
            self._phase = None
            raise

    @asynccontextmanager
    async def _begin(self, phase: PhaseRow) -> AsyncIterator[UnitOfWork]:
        if phase.primary is Origin.POSTGRES:
            async with PostgresUnitOfWork(self._engine, self._mappings, pin=self._settings.phase) as on_postgres:
                yield on_postgres
            return
        store = await self._cosmos()
        async with CosmosUnitOfWork(store, self._mappings, phase.epoch, self._settings.tombstone_ttl_s) as on_cosmos:
            why = self._why_refused(phase)
            yield on_cosmos if why is None else ReadOnlyUnitOfWork(on_cosmos, why)

    def _why_refused(self, phase: PhaseRow) -> str | None:
        pinned = self._settings.phase
        if pinned is not None and pinned is not phase.phase:
            return f"this process is pinned to phase {pinned.label}, the recorded phase is {phase.phase.label}"
        if phase.state is PhaseState.DRAINING:
            return f"a switch is draining the writers of phase {phase.phase.label}"
        return None

    async def _check_cosmos(self, phase: PhaseRow) -> None:
        if phase.phase is Phase.POSTGRES_ONLY:
            return
        try:
            await self._cosmos()
        except (ConfigurationError, TransientError) as error:
            if phase.primary is Origin.COSMOS:
                raise
            log.warning("crossfeed.cosmos_not_ready", reason=str(error))

    async def _cosmos(self) -> CosmosStore:
        async with self._lock:
            if self._store is None:
                async with AsyncExitStack() as opening:
                    store = await opening.enter_async_context(open_cosmos(self._settings))
                    await store.check(self._mappings)
                    self._stack.push_async_exit(opening.pop_all())
                self._store = store
            return self._store
