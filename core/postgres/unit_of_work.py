"""The unit of work on Postgres: one transaction, its repositories, and the truth about a commit without an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import psycopg
import structlog
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from core.entity import Entity, Loaded, loaded, mark_loaded
from core.errors import ConcurrencyError, OutcomeUnknownError, PhasePinnedError, StoreUnavailableError
from core.events import EventMaker
from core.postgres.engine import raw
from core.postgres.events import recording
from core.postgres.failures import driver_error, scrubbed, translate, translated
from core.postgres.phases import read_phase
from core.postgres.repository import PostgresRepository
from core.tracing import UnitTrace

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.events import Event
    from core.identity import Identity
    from core.mappings import Mappings
    from core.phases import Phase, PhaseRow
    from core.repository import EntityRepository

log = structlog.get_logger()

T = TypeVar("T", bound=Entity)
R = TypeVar("R", bound="EntityRepository[Any]")

_ASK_FOR_S = 10.0
_ASK_EVERY_S = 0.1


class PostgresUnitOfWork:
    """See core.repository.UnitOfWork.

    Args:
        engine: from core.postgres.engine.open_engine.
        mappings: what the repositories know.
        isolation_level: `READ COMMITTED` unless given.
        pin: the only phase in which this process may write; checked in the unit's own transaction.
        maker: makes the envelopes of recorded events.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        mappings: Mappings,
        *,
        isolation_level: str | None = None,
        pin: Phase | None = None,
        maker: EventMaker = EventMaker(),  # noqa: B008 - frozen
    ) -> None:
        self._engine = engine
        self._mappings = mappings
        self._isolation_level = isolation_level
        self._pin = pin
        self._maker = maker
        self._pin_checked = pin is None
        self._connection: AsyncConnection | None = None
        self._before: dict[int, tuple[Entity, Loaded | None]] = {}
        self._xid: str | None = None
        self._events: dict[Identity, list[Document]] = {}
        self._trace = UnitTrace("postgres")

    async def __aenter__(self) -> Self:
        """Begin the transaction.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        try:
            with translated("begin"):
                connection = await self._engine.connect()
        except BaseException as error:
            self._trace.end(error)
            raise
        self._connection = connection
        try:
            with translated("begin"):
                if self._isolation_level is not None:
                    await connection.execution_options(isolation_level=self._isolation_level)
                await connection.begin()
                if parent := self._trace.traceparent:
                    await connection.exec_driver_sql(
                        "SELECT set_config('crossfeed.traceparent', %(parent)s, true)", {"parent": parent}
                    )
        except BaseException as error:
            self._trace.end(error)
            await connection.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Roll back what was not committed and give the connection back."""
        connection = self.connection
        try:
            if connection.in_transaction():
                await self.rollback()
        finally:
            self._trace.end(error)
            await connection.close()

    @property
    def connection(self) -> AsyncConnection:
        """The unit's own connection, for SQL of your own in the same transaction (captured as well).

        Raises:
            RuntimeError: outside of `async with`.

        """
        if self._connection is None:
            msg = "the unit of work is used with `async with`"
            raise RuntimeError(msg)
        return self._connection

    def __getitem__(self, model: type[T]) -> PostgresRepository[T]:
        """See UnitOfWork."""
        mapping = self._mappings.of(model)
        return PostgresRepository(self, mapping, self._mappings.beside(mapping))

    def of(self, repository: type[R]) -> R:
        """See UnitOfWork."""
        return repository(self[repository.model])

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """See UnitOfWork. The event goes into the log at the commit, behind the lock on its aggregate's row."""
        identity = self._mappings.identity_of(of)
        with self._trace.inside():
            envelope = self._maker.envelope(event, identity)
        self._events.setdefault(identity, []).append(envelope)

    async def commit(self) -> None:
        """See UnitOfWork. A commit whose answer was lost is looked up by its transaction id before it is reported.

        Raises:
            ConcurrencyError: a statement of the unit had failed and the caller went on; everything was rolled back.

        """
        if (await raw(self.connection)).info.transaction_status is TransactionStatus.INERROR:
            # Postgres would answer COMMIT with ROLLBACK, and no driver calls that an error.
            await self.rollback()
            msg = "commit: a statement of this unit failed before; it was rolled back, nothing was written"
            raise ConcurrencyError(msg)
        try:
            await self._record_events()
        except BaseException:
            await self.rollback()
            raise
        try:
            await self.connection.commit()
        except (DBAPIError, psycopg.Error) as error:
            cause = driver_error(error)
            if cause is None or (cause.sqlstate is not None and not cause.sqlstate.startswith(("08", "57P"))):
                self._restore()
                raise translate(error, "commit") from scrubbed(error)
            await self._after_lost_answer(error)
        self._trace.committed()
        self._forget()

    async def rollback(self) -> None:
        """See UnitOfWork."""
        self._restore()
        try:
            await self.connection.rollback()
        except (DBAPIError, psycopg.Error) as error:
            log.info("unit_of_work.rollback_on_lost_connection", error=type(error).__name__)
            await self.connection.invalidate()

    # -- for the repositories

    def remember(self, entity: Entity, state: Loaded | None, xid: str | None) -> None:
        """See core.postgres.repository.Work."""
        if xid is not None:
            self._xid = xid
            self._before.setdefault(id(entity), (entity, loaded(entity)))
        mark_loaded(entity, state)

    async def check_writable(self) -> None:
        """Refuse to write when this process is pinned to a phase that is not the recorded one.

        Raises:
            PhasePinnedError: the recorded phase is another.

        """
        if self._pin_checked:
            return
        recorded: PhaseRow = await read_phase(self.connection)
        if recorded.phase is not self._pin:
            pinned = cast("Phase", self._pin).label
            msg = f"this process is pinned to phase {pinned}, the recorded phase is {recorded.phase.label}"
            raise PhasePinnedError(msg)
        self._pin_checked = True

    # -- inside

    async def _record_events(self) -> None:
        """Put the recorded events into the log; aggregates in their order, so that two units do not wait crosswise."""
        if not self._events:
            return
        await self.check_writable()
        for identity in sorted(self._events):
            statement, parameters = recording(self._mappings.named(identity.entity), identity, self._events[identity])
            with translated(f"record events of {identity}"):
                [(_, self._xid)] = await self.connection.execute(statement, parameters)

    def _restore(self) -> None:
        for entity, state in self._before.values():
            mark_loaded(entity, state)
        self._forget()

    def _forget(self) -> None:
        """Start afresh: a next transaction of the same unit has an id of its own."""
        self._before.clear()
        self._events.clear()
        self._xid = None

    async def _after_lost_answer(self, error: Exception) -> None:
        status = await self._status_of_commit()
        if status == "committed":
            log.info("unit_of_work.commit_confirmed_after_lost_answer")
            return
        self._restore()
        if status == "aborted":
            msg = "commit: the connection was lost and nothing was written"
            raise StoreUnavailableError(msg) from error
        msg = "commit: the connection was lost before the answer came; the writes may or may not have taken effect"
        raise OutcomeUnknownError(msg) from error

    async def _status_of_commit(self) -> str | None:
        """Ask `pg_xact_status` on a new connection until it knows, for a while; None if it stays unknown."""
        xid = self._xid
        if xid is None:
            return None

        async def ask() -> str | None:
            async with self._engine.connect() as connection:
                result = await connection.exec_driver_sql("SELECT pg_xact_status(%(xid)s::xid8)", {"xid": xid})
                status: str | None = result.scalar_one()
                return status

        retrying = AsyncRetrying(
            stop=stop_after_delay(_ASK_FOR_S),
            wait=wait_fixed(_ASK_EVERY_S),
            retry=retry_if_exception_type((DBAPIError, psycopg.Error, OSError))
            | retry_if_result(lambda status: status == "in progress"),
        )
        try:
            return await retrying(ask)
        except RetryError:
            return None
