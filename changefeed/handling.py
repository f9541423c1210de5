"""Calls one handler with one event inside a transaction, and says whose fault it was if that failed.

What it did is undone then, alone: the transaction goes on. Not the event's fault, and no attempt, is what passes by
itself: a TransientError, a ConcurrencyError, a PrimaryMovedError or an OutcomeUnknownError that the handler raises or
lets through, and of Postgres a deadlock, a lock or a statement that took too long, a server without room or on its way
down, a fence. Everything else is: a wrong value, a missing column, whatever the handler's own code raises, and a
handler that takes longer than CROSSFEED_CONSUMER_TIMEOUT_S.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import psycopg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolExhaustedError

from core.errors import ConcurrencyError, OutcomeUnknownError, PrimaryMovedError, TransientError
from core.postgres.failures import FENCED, describe, driver_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from changefeed.inbox import Arrival, Key
    from core.handlers import Registered

_PASSING = (TransientError, ConcurrencyError, PrimaryMovedError, OutcomeUnknownError, PoolExhaustedError)
_READ_ONLY: Final = "25006"
"""A server that is a standby now."""
# Connections, deadlocks, room and memory, locks, shutdowns and cancellations, the system under Postgres.
_PASSING_CLASSES: Final = ("08", "40", "53", "55", "57", "58")
_MOST: Final = 1000
"""Characters of a reason."""
ENDED: Final = (
    "the handler ended the transaction, which is not its own, or went on after Postgres had refused something"
)
LOST: Final = "the connection to Postgres was lost in the handler"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a handler has not handled an event. `counts`: by the fault of the event."""

    reason: str
    error: str
    counts: bool


class Constraints(Enum):
    """When constraints that may be deferred are checked."""

    AS_DECLARED = "as declared"
    CHECKED = "after each call"


class SpoiledTransactionError(Exception):
    """A handler left a transaction that cannot go on: begin anew without calling it."""

    def __init__(self, key: Key, reason: str, *, counts: bool = True) -> None:
        super().__init__(reason)
        self.key = key
        self.failure = Failure(reason, type(self).__name__, counts=counts)


async def call(  # noqa: PLR0913, PLR0917 - the facts of a call
    handler: Registered,
    arrival: Arrival,
    attempt: int,
    connection: AsyncConnection,
    limit_s: float,
    constraints: Constraints,
) -> Failure | None:
    """Call a handler inside a savepoint; return why it failed, None if it did not.

    Args:
        handler: the handler.
        arrival: the event.
        attempt: 1 at the first time.
        connection: in the transaction.
        limit_s: how long it may take, in seconds.
        constraints: when those that may be deferred are checked.

    Raises:
        SpoiledTransactionError: it ended the transaction, had to be cancelled in the middle of a statement, or the
            connection was lost meanwhile.

    """
    savepoint = await connection.begin_nested()
    limit = asyncio.timeout(limit_s)
    try:
        with _uncommitted(connection):
            async with limit:
                await handler.handle(arrival.envelope, attempt, connection)
        _check(connection, arrival)
        if constraints is Constraints.CHECKED:
            await connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
            await connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
    except SpoiledTransactionError:
        raise
    except (Exception, asyncio.CancelledError, SystemExit) as error:
        if _is_cancelled(error):
            raise
        if limit.expired():
            raise SpoiledTransactionError(arrival.key, f"the handler took longer than {limit_s:g} s") from error
        _check(connection, arrival)
        await _end(savepoint.rollback, connection, arrival)
        return _failure_of(error)
    await _end(savepoint.commit, connection, arrival)
    return None


def _is_cancelled(error: BaseException) -> bool:
    """Whether somebody has cancelled this task; otherwise it was something of the handler's own that was."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


@contextmanager
def _uncommitted(connection: AsyncConnection) -> Iterator[None]:
    """Keep a handler from committing: what others did would be committed without a note of it, and done again."""
    target = connection.sync_connection
    event.listen(target, "commit", _refuse)
    try:
        yield
    finally:
        event.remove(target, "commit", _refuse)


def _refuse(connection: Connection) -> None:
    connection.connection.rollback()  # SQLAlchemy takes it for ended, whether it could be committed or not
    raise InvalidRequestError(ENDED)


async def _end(how: Callable[[], Awaitable[None]], connection: AsyncConnection, arrival: Arrival) -> None:
    """End the savepoint; if that cannot be done, it was ended by raw SQL, or an error in it was passed over."""
    try:
        await how()
    except DBAPIError as error:
        is_lost = connection.invalidated
        counts = not (is_lost or passes(error))
        raise SpoiledTransactionError(arrival.key, LOST if is_lost else ENDED, counts=counts) from error


def _check(connection: AsyncConnection, arrival: Arrival) -> None:
    """Make sure that the savepoint may still be there."""
    if connection.invalidated:  # by an outage; or by the handler, each time anew, which must not stop the others
        raise SpoiledTransactionError(arrival.key, LOST, counts=False)
    if not connection.in_nested_transaction():
        raise SpoiledTransactionError(arrival.key, ENDED)


def _failure_of(error: BaseException) -> Failure:
    cause = driver_error(error)
    said = describe(cause) if cause is not None else str(error)
    name = type(error).__name__
    return Failure(f"{name}: {said}"[:_MOST], name, counts=not passes(error))


def passes(error: BaseException) -> bool:
    """Whether what failed may work later without anybody doing anything about the event."""
    cause = driver_error(error)
    if cause is None:
        return isinstance(error, _PASSING)
    if cause.sqlstate is None:  # the driver itself: the connection, or what it cannot send
        return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
    return cause.sqlstate[:2] in _PASSING_CLASSES or cause.sqlstate in {FENCED, _READ_ONLY}
