"""Translates what the driver raises into core.errors, once and with the cause kept."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
    CrossfeedError,
    DocumentRefusedError,
    NotFoundError,
    PrimaryMovedError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FENCED = "CF001"
"""SQLSTATE of the refuse triggers."""
NOT_THERE = "CF004"
"""SQLSTATE of an event whose aggregate has neither a row nor a tombstone."""

# 54: a key too long for its index, a document too deep for the server.
_DATA_CLASSES = ("22", "23", "54")
_OBJECTIONS = ("P0001", "P0004")
"""SQLSTATEs of RAISE EXCEPTION and ASSERT in triggers of the user's."""
# 42: rights and names; 53: room, memory, connections; 57: shutdowns and cancellations; 58: the system under Postgres.
_SPEAKING_CLASSES = ("42", "53", "57", "58")
_CONFLICTS = (pg.SerializationFailure, pg.DeadlockDetected)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise core.errors for what the driver raises inside; `what` names the document or the step, never its content."""
    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        raise translate(error, what) from scrubbed(error)
    except PendingRollbackError as error:  # the connection broke, and a later step of the same transaction met it
        msg = f"{what}: the connection was lost in the middle of the transaction"
        raise StoreUnavailableError(msg) from error


def driver_error(error: BaseException) -> psycopg.Error | None:
    """Return the psycopg error behind `error`, if there is one."""
    if isinstance(error, DBAPIError):
        return error.orig if isinstance(error.orig, psycopg.Error) else None
    return error if isinstance(error, psycopg.Error) else None


def is_documents_fault(error: BaseException) -> bool:
    """Whether the SQLSTATE says that the data, not the infrastructure, is to blame: classes 22, 23 and 54.

    What a trigger of the user's raises without a code of its own is about the data as well.
    """
    cause = driver_error(error)
    if cause is None:
        return False
    # Without an SQLSTATE it is the driver that refused, before anything was sent: NUL in a text, for example.
    if not cause.sqlstate:
        return isinstance(cause, psycopg.DataError)
    return cause.sqlstate[:2] in _DATA_CLASSES or cause.sqlstate in _OBJECTIONS


def translate(error: psycopg.Error | DBAPIError, what: str) -> CrossfeedError:
    """Return the error of ours that says what the driver said. Values stay out of the message."""
    cause = driver_error(error)
    reason = describe(cause) if cause is not None else type(error).__name__
    message = f"{what}: {reason}"
    if isinstance(cause, pg.UniqueViolation):
        return AlreadyExistsError(message)
    if isinstance(cause, _CONFLICTS):
        return ConcurrencyError(message)
    if cause is not None and cause.sqlstate == FENCED:
        return PrimaryMovedError(f"{what}: Postgres does not take writes now: Cosmos DB is primary, or a switch drains")
    if cause is not None and cause.sqlstate == NOT_THERE:
        return NotFoundError(f"{what}: an event of an aggregate that was never there; add the aggregate first")
    if is_documents_fault(error):
        return DocumentRefusedError(message)
    return StoreUnavailableError(message)


def scrubbed(error: psycopg.Error | DBAPIError) -> Exception:
    """Return the cause to keep: the driver's error without the detail that quotes values, fit for a traceback."""
    cause = driver_error(error)
    return type(cause)(describe(cause)) if cause is not None else RuntimeError(type(error).__name__)


def describe(error: psycopg.Error) -> str:
    """Name the error by its SQLSTATE and what it is about; never by its detail, which quotes values.

    The message itself is given only where Postgres speaks of rights, names, room and itself, never of data.
    """
    diagnosis = error.diag
    if error.sqlstate is None:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    parts = [f"{type(error).__name__} ({error.sqlstate})"]
    if diagnosis.constraint_name:
        parts.append(f"constraint {diagnosis.constraint_name}")
    if diagnosis.column_name:
        parts.append(f"column {diagnosis.column_name}")
    if diagnosis.message_primary and error.sqlstate[:2] in _SPEAKING_CLASSES:
        parts.append(diagnosis.message_primary)
    return ", ".join(parts)
