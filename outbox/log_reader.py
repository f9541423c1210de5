"""Reads the next batch of the outbox: what a new snapshot sees and the cursor's snapshot did not, in sequence order.

This is PgQ's method of two snapshots. `seq > last` would skip what commits late, and a horizon (the oldest running
transaction) would stall behind every long one. What the old snapshot did not see is either at or above its xmax or in
its list of transactions in progress; both are ranges of the index on xid, so a transaction held open for an hour costs
nothing. Messages of one document are in commit order by their sequence: each is inserted while the row is locked.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from core.cosmos.event_documents import EventMessage
from core.cosmos.markers import Mark
from core.errors import StoreUnavailableError
from core.identity import Identity
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.canaries import CANARY
from core.postgres.engine import fetch
from outbox.canaries import Canary, parted
from outbox.cursor import SERVER, Carries, Cursor, ServerChangedError, SlotGroup
from outbox.snapshot import Snapshot

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class Message(NamedTuple):
    """A reference to a changed document. `age_s` is how long ago it was written when it was read, in seconds.

    `traceparent` names the trace of its writer, whatever that said.
    """

    seq: int
    identity: Identity
    age_s: float
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One page of the log, and everything else that the same statement saw.

    `messages` (of slots that carry states) or `events` are in sequence order; messages are empty where the phase does
    not send (`left` says whether there are any) and nobody else wants to know what changed. `newest` names the row with
    the highest number among what is sent.
    `next` is the cursor once they are delivered. `has_parked`: something is parked,
    `has_letters`: or dead. `canaries` are no messages.
    """

    group: SlotGroup
    phase: PhaseRow
    messages: tuple[Message, ...]
    events: tuple[EventMessage, ...]
    newest: Mark | None
    next: Cursor
    more: bool
    left: bool
    has_parked: bool
    has_letters: bool
    canaries: tuple[Canary, ...] = ()


_READ = {
    Carries.STATES: ("seq", "entity", "partition_key", "id", "traceparent"),
    Carries.EVENTS: ("seq", "entity", "partition_key", "id", "event_id", "event", "traceparent"),
}

_STATE_COLUMNS = 10

# Phase, snapshot and messages come from one statement, so from one snapshot: first a row of what is once per statement,
# then one for every message.
_STATE = f"""
    SELECT p.phase, p.epoch, p.state, pg_current_snapshot()::text, pg_is_in_recovery(), {SERVER},
        EXISTS (SELECT FROM crossfeed.parked),
        EXISTS (SELECT FROM crossfeed.dead_letter WHERE direction = 'to_cosmos'),
        n.xid::text, to_json(n.at) #>> '{{}}'
    FROM crossfeed.phase p
    LEFT JOIN (SELECT xid, at FROM m WHERE entity <> '{CANARY}' ORDER BY seq DESC LIMIT 1) AS n ON true
"""


def delta(carries: Carries) -> str:
    """Return the statement that reads a whole delta, if it is a small one."""
    # Both arms are ordered by xid for the planner's sake alone: with a LIMIT, it then walks the index on xid whatever
    # it thinks of the number of messages. What is visible needs no condition: the statement's snapshot is the new one.
    arm = f"{_select(carries)} WHERE slot = ANY(%(slots)s::smallint[])"
    return _with_state(
        carries,
        f"""({arm} AND xid >= %(xmax)s::xid8 ORDER BY xid LIMIT %(limit)s)
            UNION ALL
            ({arm} AND xid = ANY(%(in_progress)s::xid8[]) ORDER BY xid LIMIT %(limit)s)""",
    )


def page(carries: Carries) -> str:
    """Return the statement that reads a page of a delta whose target is fixed."""
    # A window of the primary key, so that a page costs the same whatever plan is chosen: `seen` is no index condition
    # here on purpose, else every page would collect and sort the whole delta.
    return _with_state(
        carries,
        f"""{_select(carries)}
            WHERE seq > %(position)s AND seq <= %(until)s AND slot = ANY(%(slots)s::smallint[])
                AND NOT pg_visible_in_snapshot(xid, %(seen)s::pg_snapshot)
                AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
            ORDER BY seq LIMIT %(limit)s""",
    )


def _select(carries: Carries) -> str:
    return f"SELECT {', '.join(_READ[carries])}, at, xid FROM crossfeed.outbox"


def _with_state(carries: Carries, messages: str) -> str:
    once = ", ".join(["NULL"] * _STATE_COLUMNS)
    given = ", ".join(f"m.{name}" for name in _READ[carries]).replace("m.event,", "m.event::text,")
    return f"""
        WITH m AS MATERIALIZED ({messages}), s AS ({_STATE})
        SELECT s.*, {", ".join(["NULL"] * len(_READ[carries]))}, NULL FROM s
        UNION ALL SELECT {once}, {given}, date_part('epoch', clock_timestamp() - m.at) FROM m
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


async def read_batch(
    connection: AsyncConnection, group: SlotGroup, page_size: int, *, is_watched: bool = False
) -> Batch:
    """Read the next page of a group's slots.

    Args:
        connection: in autocommit: every statement needs a snapshot of its own.
        group: where its slots stand.
        page_size: how many messages at most.
        is_watched: whether somebody wants to know what changed in the phase `postgres_only`, too.

    Raises:
        StoreUnavailableError: this is a standby, whose snapshots are not the primary's.
        ServerChangedError: the cursor was read on another run of the server, or on another server.
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    cursor = group.cursor
    if cursor.target is None:
        seen = await _see(connection, delta(group.carries), delta_parameters(group, page_size), group, is_watched)
        if len(seen.rows) < page_size or not seen.is_read:
            return seen.batch(Cursor(seen.snapshot), more=False)
        [(first,)] = await fetch(connection, FIRST, delta_parameters(group, 0))
        cursor = Cursor(cursor.seen, seen.snapshot, first - 1)
    return await _read_page(connection, group, cursor, page_size, is_watched)


async def _read_page(
    connection: AsyncConnection, group: SlotGroup, cursor: Cursor, page_size: int, is_watched: bool
) -> Batch:
    """Read on in a delta whose target is fixed, window by window until there are messages or it is exhausted."""
    [(last,)] = await fetch(connection, _LAST, {})
    position = cursor.position
    while True:
        until = position + WINDOW_PAGES * page_size
        from_here = Cursor(cursor.seen, cursor.target, position)
        window = page_parameters(group, from_here, until, page_size)
        seen = await _see(connection, page(group.carries), window, group, is_watched)
        if not seen.is_read:
            return seen.batch(Cursor(seen.snapshot), more=False)
        if len(seen.rows) == page_size:
            return seen.batch(Cursor(cursor.seen, cursor.target, seen.rows[-1][0]), more=True)
        if until >= last:
            return seen.batch(Cursor(cursor.target or seen.snapshot), more=True)
        if seen.rows:
            return seen.batch(Cursor(cursor.seen, cursor.target, until), more=True)
        position = until


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one statement saw: what is once in it, and its messages in sequence order."""

    group: SlotGroup
    phase: PhaseRow
    snapshot: Snapshot
    has_parked: bool
    has_letters: bool
    newest: tuple[str | None, str | None]
    rows: list[tuple[Any, ...]]
    is_watched: bool

    @property
    def flows(self) -> bool:
        """Whether what was read is sent on: events in every phase."""
        return self.group.carries is Carries.EVENTS or sends(self.phase)

    @property
    def is_read(self) -> bool:
        """Whether somebody wants to know what was read."""
        return self.flows or (self.is_watched and self.phase.phase is Phase.POSTGRES_ONLY)

    def batch(self, following: Cursor, *, more: bool) -> Batch:
        others, canaries = parted(self.rows)
        rows = others if self.is_read else []
        messages: tuple[Message, ...] = ()
        events: tuple[EventMessage, ...] = ()
        if self.group.carries is Carries.STATES:
            messages = tuple(
                [Message(seq, Identity(entity, key, id_), age_s, of) for seq, entity, key, id_, of, age_s in rows]
            )
        else:
            # A slot may have come to carry states, if the log was cut anew and this relay has not heard of it yet.
            events = tuple(
                EventMessage(seq, Identity(entity, key, id_), event_id, *rest)
                for seq, entity, key, id_, event_id, *rest in rows
                if event_id is not None
            )
        xid, at = self.newest
        sent = rows if self.flows else []
        newest = Mark(sent[-1][0], int(xid), at) if sent and xid is not None and at is not None else None
        return Batch(
            self.group,
            self.phase,
            messages,
            events,
            newest,
            following,
            more=more,
            left=bool(others),
            has_parked=self.has_parked,
            has_letters=self.has_letters,
            canaries=canaries if self.flows else (),
        )


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


async def _see(
    connection: AsyncConnection, sql: str, parameters: dict[str, Any], group: SlotGroup, is_watched: bool
) -> _Seen:
    rows = await fetch(connection, sql, parameters)
    [state] = [row[:_STATE_COLUMNS] for row in rows if row[0] is not None]
    phase, epoch, name, snapshot, is_standby, server, has_parked, has_dead, *newest = state
    if is_standby:
        # Commits become visible in another order there, and its cursor would be stored on the primary later.
        msg = "the connection leads to a standby; the log is read from the primary only"
        raise StoreUnavailableError(msg)
    if group.server not in {None, server}:
        msg = "the server has been restarted, or another one has taken its place; the cursors are read again"
        raise ServerChangedError(msg)
    return _Seen(
        group,
        PhaseRow(Phase(phase), epoch, PhaseState(name)),
        Snapshot.parse(snapshot),
        has_parked,
        has_parked or has_dead,
        (newest[0], newest[1]),
        sorted([row[_STATE_COLUMNS:] for row in rows if row[0] is None], key=itemgetter(0)),
        is_watched,
    )
