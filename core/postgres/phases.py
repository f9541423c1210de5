"""Reads and moves the one phase row; moving it goes through the database's own function that raises epochs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import errors as pg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random

from core.errors import ConflictError, MappingError
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.engine import fetch
from core.postgres.failures import driver_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    Meanwhile = Callable[[AsyncConnection, PhaseRow], Awaitable[None]]

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which a step tries to get its locks."""

_DROPPED = "CF003"
_NOT_NOW = "CF005"
READ_PHASE = "SELECT phase, epoch, state FROM crossfeed.phase"
_STEPS = text("SELECT count(*) FROM crossfeed.phase_history")
_OPEN = text("SELECT crossfeed.open_epoch(CAST(:phase AS smallint), :who, :why, CAST(:at_least AS bigint))")
_UNDER_WAY = text("SELECT id::text FROM crossfeed.switch WHERE step IN ('draining', 'opened')")
GIVE_WAY = text("""
    SELECT set_config('lock_timeout', least(setting::int * 3 / 2, 5000) || 'ms', true),
        set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '10s', true),
        crossfeed.commit_durably()
    FROM pg_settings WHERE name = 'deadlock_timeout'
""")
"""Writers queue behind a step that waits. A little above deadlock_timeout: deadlocks are called by name, and autovacuum
lets go of its table. Writers wait while it holds its locks, too: a process that was stopped in the middle must not keep
them. What the role says of long statements, and of commits that may be forgotten, is for others."""

# Who holds what SHARE ROW EXCLUSIVE conflicts with, or waits in line for it before us; of the phase row, whoever has
# locked it. Constants are taken out of the query: they are somebody's data.
_HOLDERS = r"""
    SELECT coalesce('process ' || a.pid, 'prepared transaction ' || x.gid, 'a prepared transaction'),
        extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared))::bigint,
        CASE WHEN a.pid IS NULL THEN 'prepared' WHEN bool_or(l.granted) THEN coalesce(a.state, 'state hidden')
            ELSE 'waiting for its lock' END,
        left(regexp_replace(coalesce(a.query, ''), '''([^'']|'''')*''|\m[0-9]+([.][0-9]+)?\M', '?', 'g'), 200)
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN (
        SELECT t.virtualtransaction, p.gid, p.prepared
        FROM pg_locks t JOIN pg_prepared_xacts p ON p.transaction = t.transactionid WHERE t.pid IS NULL
    ) AS x ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
    WHERE l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (l.mode NOT IN ('AccessShareLock', 'RowShareLock') AND l.relation IN (
                SELECT unnest(children || relation)::oid FROM crossfeed.captured
                UNION SELECT 'crossfeed.outbox'::regclass::oid)
            OR l.mode <> 'AccessShareLock' AND l.relation = 'crossfeed.phase'::regclass)
    GROUP BY 1, 2, 4, a.pid, a.state ORDER BY 2 DESC NULLS FIRST, 1
"""
_NAMED = 8
"""So many of those in the way are named, the oldest first."""


async def read_phase(connection: AsyncConnection) -> PhaseRow:
    """Return phase, epoch and state as this transaction sees them."""
    return phase_of(await fetch(connection, READ_PHASE, {}))


def phase_of(rows: Sequence[tuple[Any, ...]]) -> PhaseRow:
    """Return what READ_PHASE has found."""
    [(phase, epoch, state)] = rows
    return PhaseRow(Phase(phase), epoch, PhaseState(state))


async def open_phase(  # noqa: PLR0913 - the facts of a step
    engine: AsyncEngine,
    phase: Phase,
    *,
    who: str,
    why: str,
    meanwhile: Meanwhile | None = None,
    patience: float = PATIENCE,
) -> PhaseRow:
    """Step to a neighbouring phase in one transaction, without draining: nobody may be writing to Cosmos DB.

    Locks every captured table until writers in flight have ended, re-creates the triggers with the new epoch,
    opens or closes the fence, and records the step. While it waits, other writers wait behind it: it lets them pass
    every 1.5 seconds.

    Args:
        engine: the engine.
        phase: the phase to open; a neighbour of the recorded one, or any while no step was ever made.
        who: the operator, for the history.
        why: the reason, for the history.
        meanwhile: what to do in the same transaction when the phase is open; must bear being called again.
        patience: the seconds after which no new attempt is made.

    Raises:
        ConflictError: the phase is not a neighbour, a switch is under way, or a writer does not end (it is named).
        MappingError: a captured table was dropped.

    """
    return await patiently(engine, patience, partial(_open, engine, phase, who, why, meanwhile))


async def reopen_phase(  # noqa: PLR0913 - the facts of a step
    engine: AsyncEngine,
    at_least: int,
    meanwhile: Meanwhile,
    *,
    who: str,
    why: str,
    patience: float = PATIENCE,
) -> PhaseRow:
    """Open a new epoch in the recorded phase, and do something in the same transaction, all writers locked out.

    Args:
        engine: the engine.
        at_least: the new epoch, unless the recorded one is that far already; then the next.
        meanwhile: what to do when the epoch is open; must bear being called again after a lock that was not to be had.
        who: the operator, for the history.
        why: the reason, for the history.
        patience: the seconds after which no new attempt is made.

    Raises:
        ConflictError: a switch is under way, or a writer does not end (it is named).
        MappingError: a captured table was dropped.

    """
    return await patiently(engine, patience, partial(_reopen, engine, at_least, meanwhile, who, why))


async def patiently(engine: AsyncEngine, patience: float, step: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Repeat a transaction that begins with GIVE_WAY until it has its locks.

    Args:
        engine: the engine that the step uses.
        patience: the seconds after which no new attempt is made.
        step: the transaction.

    Raises:
        ConflictError: a writer does not end (it is named), or the database says that the step is not allowed now.
        MappingError: a captured table was dropped.
        sqlalchemy.exc.DBAPIError: anything else that the driver raised.

    """
    attempts = AsyncRetrying(
        retry=retry_if_exception(_waited_in_vain),
        stop=stop_after_delay(patience),
        wait=wait_random(0.1, 0.5),
        reraise=True,
    )
    try:
        return await attempts(step)
    except DBAPIError as error:
        cause = driver_error(error)
        if _waited_in_vain(error):
            msg = f"writers do not end: {await lock_holders(engine)}"
            raise ConflictError(msg) from error
        if cause is not None and cause.sqlstate == _DROPPED:
            msg = f"{cause.diag.message_primary}; {cause.diag.message_hint}"
            raise MappingError(msg) from error
        if cause is not None and cause.sqlstate == _NOT_NOW:
            raise ConflictError(str(cause.diag.message_primary).removeprefix("crossfeed: ")) from error
        raise


async def lock_phase(connection: AsyncConnection) -> PhaseRow:
    """Take the row first: two steps at once go one after the other, each from what the other left."""
    await connection.execute(GIVE_WAY)
    await connection.execute(text("SELECT FROM crossfeed.phase FOR UPDATE"))
    return await read_phase(connection)


async def _open(engine: AsyncEngine, phase: Phase, who: str, why: str, meanwhile: Meanwhile | None) -> PhaseRow:
    async with engine.begin() as connection:
        current = await _lock_steady(connection)
        if (pending := (await connection.execute(_UNDER_WAY)).scalar()) is not None:
            msg = f"switch {pending} has opened phase {current.phase.label} and is not done; resume it first"
            raise ConflictError(msg)
        steps = (await connection.execute(_STEPS)).scalar_one()
        if steps > 1 and abs(phase - current.phase) != 1:
            msg = f"{phase.label} is not a neighbour of the recorded phase {current.phase.label}; step through"
            raise ConflictError(msg)
        row = await _open_epoch(connection, phase, 0, who, why)
        if meanwhile is not None:
            await meanwhile(connection, row)
        return row


async def _reopen(engine: AsyncEngine, at_least: int, meanwhile: Meanwhile, who: str, why: str) -> PhaseRow:
    async with engine.begin() as connection:
        current = await _lock_steady(connection)
        row = await _open_epoch(connection, current.phase, at_least, who, why)
        await meanwhile(connection, row)
        return row


async def _lock_steady(connection: AsyncConnection) -> PhaseRow:
    current = await lock_phase(connection)
    if current.state is not PhaseState.STEADY:
        msg = f"a switch is under way in phase {current.phase.label}"
        raise ConflictError(msg)
    return current


async def _open_epoch(connection: AsyncConnection, phase: Phase, at_least: int, who: str, why: str) -> PhaseRow:
    facts = {"phase": int(phase), "who": who, "why": why, "at_least": at_least}
    epoch = (await connection.execute(_OPEN, facts)).scalar_one()
    return PhaseRow(phase, epoch, PhaseState.STEADY)


def _waited_in_vain(error: BaseException) -> bool:
    return isinstance(driver_error(error), pg.LockNotAvailable | pg.DeadlockDetected)


async def lock_holders(engine: AsyncEngine) -> str:
    """Name whoever keeps the captured tables and the log from being locked: transaction, age, query without values.

    Age, state and query of other roles' sessions are shown to members of pg_read_all_stats.
    """
    async with engine.connect() as connection:
        found: list[tuple[Any, ...]] = [tuple(row) for row in await connection.exec_driver_sql(_HOLDERS)]
    lasting = [row for row in found if row[1] != 0] or found  # who came just now was in nobody's way
    named = [
        f"{who}, {'of an age that is hidden' if age is None else f'{age} s old'}, {state}: {' '.join(query.split())}"
        for who, age, state, query in lasting[:_NAMED]
    ]
    if len(lasting) > _NAMED:
        named.append(f"and {len(lasting) - _NAMED} more")
    return "; ".join(named) or "they have ended just now, try again"
