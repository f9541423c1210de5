"""Routes the reads of a unit of work: Postgres first while it is the primary, then Cosmos DB; see `fallback`.

In phases 0, 1 and 3 reads stay where writes go, and in phase 2 as well if the switch found every document's row.
A unit of work belongs to the phase in which it began: when the primary moves, it goes on reading its own store, and its
writes are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

from psycopg.pq import TransactionStatus

from core.entity import Entity
from core.errors import ConfigurationError, StoreUnavailableError
from core.migration.fallback import Fallback
from core.migration.routed_repository import RoutedRepository
from core.migration.shadow import ShadowReads
from core.phases import Phase
from core.postgres.engine import raw
from core.postgres.failures import translated
from core.postgres.opening import read_barrier
from core.postgres.unit_of_work import PostgresUnitOfWork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.unit_of_work import CosmosUnitOfWork
    from core.events import Event
    from core.identity import Identity
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.repository import EntityRepository, Repository, UnitOfWork
    from core.settings import Settings

T = TypeVar("T", bound=Entity)
R = TypeVar("R", bound="EntityRepository[Any]")


class Routing:
    """What one process knows of its routes; ends its shadow reads when it is left, so the stores outlive it.

    async with Routing(engine, mappings, store, settings) as routing:
        async with PostgresUnitOfWork(…) as work:
            routed = routing.routed(work, phase)

    Args:
        engine: from core.postgres.engine.open_engine.
        mappings: all mappings.
        store: opens Cosmos DB, once, when it is needed.
        settings: `phase` and what concerns shadow reads.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        mappings: Mappings,
        store: Callable[[], Awaitable[CosmosStore]],
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._store = store
        self._pin = settings.phase
        self._known: tuple[int, Fallback | None] | None = None
        self.mappings = mappings
        self.shadow = ShadowReads(
            engine, mappings, store, share=settings.shadow_read_share, lag_s=settings.reconcile_lag_s
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.shadow.stop()

    def routed(self, work: PostgresUnitOfWork | CosmosUnitOfWork, phase: PhaseRow) -> UnitOfWork:
        """Return the unit of work by way of which this one is to be read; writes go to this one.

        Args:
            work: on the primary of the phase, entered.
            phase: as it was when the unit began.

        """
        match phase.phase:
            case Phase.DUAL_WRITE_POSTGRES_READ:
                return RoutedUnitOfWork(work, self, phase)
            case Phase.DUAL_WRITE_COSMOS_READ if self.shadow.share:
                return RoutedUnitOfWork(work, self, phase)
            case _:
                return work

    async def fallback(self, connection: AsyncConnection, phase: PhaseRow) -> Fallback | None:
        """Return where reads fall back to in this phase, None where there is nothing to find.

        Asks Postgres once per epoch.

        Args:
            connection: of the unit of work.
            phase: that of the unit of work.

        Raises:
            StoreUnavailableError: a store did not answer, or is not what this process expects.

        """
        known = self._known
        if known is not None and known[0] == phase.epoch:
            return known[1]
        with translated("reading how Postgres became the primary"):
            barrier = await read_barrier(connection)
        fallback = None
        if barrier:
            may_write = self._pin in {None, phase.phase}
            try:
                store = await self._store()
            except ConfigurationError as error:  # so is called, too, that nobody answers when it is opened
                raise StoreUnavailableError(str(error)) from error
            fallback = Fallback(self._engine, self.mappings, store, phase, barrier, may_write=may_write)
        self._known = phase.epoch, fallback
        return fallback


class RoutedUnitOfWork:
    """Implements core.repository.UnitOfWork; made by Routing."""

    def __init__(self, work: PostgresUnitOfWork | CosmosUnitOfWork, routing: Routing, phase: PhaseRow) -> None:
        self._work = work
        self._routing = routing
        self._phase = phase
        self._bearers: set[Identity] = set()

    @property
    def connection(self) -> AsyncConnection:
        """The connection of the unit on Postgres, see PostgresUnitOfWork.

        Raises:
            AttributeError: the unit is on Cosmos DB.

        """
        if not isinstance(self._work, PostgresUnitOfWork):
            msg = "a unit of work on Cosmos DB has no connection"
            raise AttributeError(msg)  # noqa: TRY004 - it says what is missing, as the unit on Cosmos DB itself would
        return self._work.connection

    def __getitem__(self, model: type[T]) -> Repository[T]:
        """See UnitOfWork."""
        mapping = self._routing.mappings.of(model)
        on_postgres = self._work if isinstance(self._work, PostgresUnitOfWork) else None
        return RoutedRepository(self._work[model], mapping, on_postgres, self._routing, self._phase)

    def of(self, repository: type[R]) -> R:
        """See UnitOfWork."""
        return repository(self[repository.model])

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """See UnitOfWork."""
        self._work.record(event, of=of)
        self._bearers.add(self._routing.mappings.identity_of(of))

    async def commit(self) -> None:
        """See UnitOfWork. The aggregate of an event that was recorded without reading it may be in Cosmos DB alone."""
        if isinstance(self._work, PostgresUnitOfWork) and self._bearers:
            await self._bring_bearers(self._work.connection)
        self._bearers.clear()
        await self._work.commit()

    async def rollback(self) -> None:
        """See UnitOfWork."""
        self._bearers.clear()
        await self._work.rollback()

    async def _bring_bearers(self, connection: AsyncConnection) -> None:
        if (await raw(connection)).info.transaction_status is TransactionStatus.INERROR:
            return  # the commit says so
        fallback = await self._routing.fallback(connection, self._phase)
        if fallback is not None:
            for identity in sorted(self._bearers):
                await fallback.bring_one(connection, self._routing.mappings.named(identity.entity), identity)
