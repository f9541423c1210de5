"""Reads and moves the one phase row; moving it goes through the database's own function that raises epochs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

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

PATIENCE = 30.0
"""Seconds for which a step tries to get its locks."""

_DROPPED = "CF003"
READ_PHASE = "SELECT phase, epoch, state FROM crossfeed.phase"
_STEPS = text("SELECT count(*) FROM crossfeed.phase_history")
_OPEN = text("SELECT crossfeed.open_epoch(CAST(:phase AS smallint), :who, :why, CAST(:at_least AS bigint))")
GIVE_WAY = text("""
    SELECT set_config('lock_timeout', '1500ms', true), set_config('idle_in_transaction_session_timeout', '10s', true)
""")
"""Writers queue behind a step that waits. A little above the default deadlock_timeout: deadlocks are called by name.
They wait while it holds its locks, too: a process that was stopped in the middle must not keep them."""

# Who holds what SHARE ROW EXCLUSIVE conflicts with. Constants are taken out of the query: they are somebody's data.
_HOLDERS = r"""
    SELECT coalesce('process ' || a.pid, 'prepared transaction ' || x.gid, 'a prepared transaction'),
        coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared))::bigint, 0),
        coalesce(a.state, 'prepared'),
        left(regexp_replace(coalesce(a.query, ''), '''([^'']|'''')*''|\m[0-9]+([.][0-9]+)?\M', '?', 'g'), 200)
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_prepared_xacts x ON l.virtualtransaction = '-1/' || x.transaction::text
    WHERE l.granted AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') AND l.pid IS DISTINCT FROM pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.relation IN (
            SELECT unnest(children || relation)::oid FROM crossfeed.captured
            UNION SELECT unnest(ARRAY['crossfeed.outbox'::regclass, 'crossfeed.phase'::regclass])::oid)
    GROUP BY 1, 2, 3, 4 ORDER BY 2 DESC, 1
"""


async def read_phase(connection: AsyncConnection) -> PhaseRow:
    """Return phase, epoch and state as this transaction sees them."""
    return phase_of(await fetch(connection, READ_PHASE, {}))


def phase_of(rows: Sequence[tuple[Any, ...]]) -> PhaseRow:
    """Return what READ_PHASE has found."""
    [(phase, epoch, state)] = rows
    return PhaseRow(Phase(phase), epoch, PhaseState(state))


async def open_phase(engine: AsyncEngine, phase: Phase, *, who: str, why: str, patience: float = PATIENCE) -> PhaseRow:
    """Step to a neighbouring phase in one transaction, without draining: nobody may be writing to Cosmos DB.

    Locks every captured table until writers in flight have ended, re-creates the triggers with the new epoch,
    opens or closes the fence, and records the step. While it waits, other writers wait behind it: it lets them pass
    every 1.5 seconds.

    Args:
        engine: the engine.
        phase: the phase to open; a neighbour of the recorded one, or any while no step was ever made.
        who: the operator, for the history.
        why: the reason, for the history.
        patience: the seconds after which no new attempt is made.

    Raises:
        ConflictError: the phase is not a neighbour, a switch is under way, or a writer does not end (it is named).
        MappingError: a captured table was dropped.

    """
    return await _patiently(engine, patience, partial(_open, engine, phase, who, why))


async def reopen_phase(  # noqa: PLR0913 - the facts of a step
    engine: AsyncEngine,
    at_least: int,
    meanwhile: Callable[[AsyncConnection, PhaseRow], Awaitable[None]],
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
    return await _patiently(engine, patience, partial(_reopen, engine, at_least, meanwhile, who, why))


async def _patiently(
    engine: AsyncEngine, patience: float, step: Callable[[], Coroutine[Any, Any, PhaseRow]]
) -> PhaseRow:
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
        raise


async def _open(engine: AsyncEngine, phase: Phase, who: str, why: str) -> PhaseRow:
    async with engine.begin() as connection:
        current = await _lock_phase(connection)
        steps = (await connection.execute(_STEPS)).scalar_one()
        if steps > 1 and abs(phase - current.phase) != 1:
            msg = f"{phase.label} is not a neighbour of the recorded phase {current.phase.label}; step through"
            raise ConflictError(msg)
        return await _open_epoch(connection, phase, 0, who, why)


async def _reopen(
    engine: AsyncEngine,
    at_least: int,
    meanwhile: Callable[[AsyncConnection, PhaseRow], Awaitable[None]],
    who: str,
    why: str,
) -> PhaseRow:
    async with engine.begin() as connection:
        current = await _lock_phase(connection)
        row = await _open_epoch(connection, current.phase, at_least, who, why)
        await meanwhile(connection, row)
        return row


async def _lock_phase(connection: AsyncConnection) -> PhaseRow:
    """Take the row first: two steps at once go one after the other, each from what the other left."""
    await connection.execute(GIVE_WAY)
    await connection.execute(text("SELECT FROM crossfeed.phase FOR UPDATE"))
    current = await read_phase(connection)
    if current.state is not PhaseState.STEADY:
        msg = f"a switch is under way in phase {current.phase.label}"
        raise ConflictError(msg)
    return current


async def _open_epoch(connection: AsyncConnection, phase: Phase, at_least: int, who: str, why: str) -> PhaseRow:
    facts = {"phase": int(phase), "who": who, "why": why, "at_least": at_least}
    epoch = (await connection.execute(_OPEN, facts)).scalar_one()
    return PhaseRow(phase, epoch, PhaseState.STEADY)


def _waited_in_vain(error: BaseException) -> bool:
    return isinstance(driver_error(error), pg.LockNotAvailable)


async def lock_holders(engine: AsyncEngine) -> str:
    """Name whoever keeps the captured tables and the log from being locked: transaction, age, query without values."""
    async with engine.connect() as connection:
        found: list[tuple[Any, ...]] = [tuple(row) for row in await connection.exec_driver_sql(_HOLDERS)]
    named = [f"{who}, {age} s old, {state}: {' '.join(query.split())}" for who, age, state, query in found]
    return "; ".join(named) or "they have ended just now, try again"
