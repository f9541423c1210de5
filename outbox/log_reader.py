"""Reads the next batch of the outbox: what a new snapshot sees and the cursor's snapshot did not, in sequence order.

This is PgQ's method of two snapshots. `seq > last` would skip what commits late, and a horizon (the oldest running
transaction) would stall behind every long one. What the old snapshot did not see is either at or above its xmax or in
its list of transactions in progress; both are ranges of the index on xid, so a transaction held open for an hour costs
nothing. Messages of one document are in commit order by their sequence: each is inserted while the row is locked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import StoreUnavailableError
from core.identity import Identity
from core.phases import Phase, PhaseRow, PhaseState
from outbox.cursor import Cursor, SlotGroup
from outbox.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Message:
    """A reference to a changed document. `age_s` is how long ago it was written when it was read, in seconds."""

    seq: int
    identity: Identity
    age_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """One page of the log, and everything else that the same statement saw.

    `messages` are in sequence order; they are empty where the phase does not send (`left` says whether there are any).
    `next` is the cursor once they are delivered. `has_letters`: there are refused documents that a newer state settles.
    """

    group: SlotGroup
    phase: PhaseRow
    messages: tuple[Message, ...]
    next: Cursor
    more: bool
    left: bool
    has_letters: bool


_COLUMNS = "seq, entity, partition_key, id, at, xid"

# Phase, snapshot and messages come from one statement, so from one snapshot; the outer join keeps the first two where
# there is no message.
_STATE = """
    SELECT p.phase, p.epoch, p.state, pg_current_snapshot()::text, pg_is_in_recovery(),
        EXISTS (SELECT FROM crossfeed.dead_letter WHERE direction = 'to_cosmos' AND kind = 'refused'),
        m.seq, m.entity, m.partition_key, m.id, extract(epoch FROM clock_timestamp() - m.at)::float8
    FROM crossfeed.phase p LEFT JOIN
"""

# Both arms are ordered by xid for the planner's sake alone: with a LIMIT, it then walks the index on xid whatever it
# thinks of the number of messages. What is visible needs no condition: the statement's snapshot is the new one.
DELTA = f"""
    {_STATE} (
        (SELECT {_COLUMNS} FROM crossfeed.outbox
            WHERE xid >= %(xmax)s::xid8 AND slot = ANY(%(slots)s::smallint[]) ORDER BY xid LIMIT %(limit)s)
        UNION ALL
        (SELECT {_COLUMNS} FROM crossfeed.outbox
            WHERE xid = ANY(%(in_progress)s::xid8[]) AND slot = ANY(%(slots)s::smallint[]) ORDER BY xid LIMIT %(limit)s)
    ) AS m ON true
"""

# A window of the primary key, so that a page costs the same whatever plan is chosen: `seen` is no index condition here
# on purpose, else every page would collect and sort the whole delta.
PAGE = f"""
    {_STATE} (
        SELECT {_COLUMNS} FROM crossfeed.outbox
        WHERE seq > %(position)s AND seq <= %(until)s AND slot = ANY(%(slots)s::smallint[])
            AND NOT pg_visible_in_snapshot(xid, %(seen)s::pg_snapshot)
            AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
        ORDER BY seq LIMIT %(limit)s
    ) AS m ON true
"""

WINDOW_PAGES = 20
"""How many pages' worth of sequence numbers one statement looks at, at most."""

# Nothing that `target` shows is above it: what the target shows is committed, so this later statement sees it as well.
_LAST = "SELECT coalesce(max(seq), 0) FROM crossfeed.outbox"

# Where paging starts. Materialized, or the planner walks the primary key from the oldest retained message on.
FIRST = """
    WITH delta AS MATERIALIZED (
        SELECT seq FROM crossfeed.outbox WHERE xid >= %(xmax)s::xid8
        UNION ALL
        SELECT seq FROM crossfeed.outbox WHERE xid = ANY(%(in_progress)s::xid8[])
    )
    SELECT coalesce(min(seq), 1) FROM delta
"""


def sends(phase: PhaseRow) -> bool:
    """Whether state goes to Cosmos DB in this phase: only while Postgres is primary and Cosmos DB follows."""
    return phase.phase is Phase.DUAL_WRITE_POSTGRES_READ


async def read_batch(connection: AsyncConnection, group: SlotGroup, page_size: int) -> Batch:
    """Read the next page of a group's slots.

    Args:
        connection: in autocommit: every statement needs a snapshot of its own.
        group: where its slots stand.
        page_size: how many messages at most.

    Raises:
        StoreUnavailableError: this is a standby, whose snapshots are not the primary's.
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    cursor = group.cursor
    if cursor.target is None:
        rows = await _rows(connection, DELTA, delta_parameters(group, page_size + 1))
        phase, snapshot = _state(rows[0])
        if len(rows) <= page_size or not sends(phase):
            return _batch(group, rows, Cursor(snapshot), more=False)
        first = (await connection.exec_driver_sql(FIRST, delta_parameters(group, 0))).scalar_one()
        cursor = Cursor(cursor.seen, snapshot, first - 1)
    return await _read_page(connection, group, cursor, page_size)


async def _read_page(connection: AsyncConnection, group: SlotGroup, cursor: Cursor, page_size: int) -> Batch:
    """Read on in a delta whose target is fixed, window by window until there are messages or it is exhausted."""
    last = (await connection.exec_driver_sql(_LAST)).scalar_one()
    position = cursor.position
    while True:
        until = position + WINDOW_PAGES * page_size
        from_here = Cursor(cursor.seen, cursor.target, position)
        rows = await _rows(connection, PAGE, page_parameters(group, from_here, until, page_size + 1))
        phase, snapshot = _state(rows[0])
        if not sends(phase):
            return _batch(group, rows, Cursor(snapshot), more=False)
        if len(rows) > page_size:
            page = rows[:page_size]
            return _batch(group, page, Cursor(cursor.seen, cursor.target, page[-1][6]), more=True)
        if until >= last:
            return _batch(group, rows, Cursor(cursor.target or snapshot), more=True)
        if rows[0][6] is not None:
            return _batch(group, rows, Cursor(cursor.seen, cursor.target, until), more=True)
        position = until


def delta_parameters(group: SlotGroup, limit: int) -> dict[str, Any]:
    """Return the parameters of DELTA and FIRST. Values, not expressions: the planner estimates by them."""
    seen = group.cursor.seen
    return {
        "xmax": str(seen.xmax),
        "in_progress": "{" + ",".join(map(str, seen.in_progress)) + "}",
        "slots": list(group.slots),
        "limit": limit,
    }


def page_parameters(group: SlotGroup, cursor: Cursor, until: int, limit: int) -> dict[str, Any]:
    """Return the parameters of PAGE."""
    return {
        "position": cursor.position,
        "until": until,
        "slots": list(group.slots),
        "seen": str(cursor.seen),
        "target": str(cursor.target),
        "limit": limit,
    }


async def _rows(connection: AsyncConnection, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.exec_driver_sql(sql, parameters)]


def _state(row: Sequence[Any]) -> tuple[PhaseRow, Snapshot]:
    phase, epoch, state, snapshot, is_standby = row[:5]
    if is_standby:
        # Commits become visible in another order there, and its cursor would be stored on the primary later.
        msg = "the connection leads to a standby; the log is read from the primary only"
        raise StoreUnavailableError(msg)
    return PhaseRow(Phase(phase), epoch, PhaseState(state)), Snapshot.parse(snapshot)


def _batch(group: SlotGroup, rows: Sequence[Sequence[Any]], following: Cursor, *, more: bool) -> Batch:
    phase, _ = _state(rows[0])
    found = [row[6:] for row in rows if row[6] is not None]
    messages = [
        Message(seq, Identity(entity, partition_key, id_), age_s) for seq, entity, partition_key, id_, age_s in found
    ]
    return Batch(
        group,
        phase,
        tuple(sorted(messages, key=lambda message: message.seq)) if sends(phase) else (),
        following,
        more=more,
        left=bool(found),
        has_letters=rows[0][5],
    )
