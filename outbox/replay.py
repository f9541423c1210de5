"""Sends again what was committed lately: for an operator who knows that Cosmos DB lost or spoilt it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from core.errors import ConflictError
from core.postgres.canaries import CANARY
from core.postgres.failures import translated
from core.postgres.phases import GIVE_WAY, read_phase
from outbox.log_reader import sends
from outbox.partitions import KEEP_PARTITIONS

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


@dataclass(frozen=True, slots=True)
class Replay:
    """What is sent again: what was written `since`, `messages` of so many `documents` (or aggregates) of `kinds`."""

    since: datetime
    messages: int
    documents: int
    kinds: tuple[str, ...]


_AGO = text("SELECT clock_timestamp() - CAST(:ago AS interval)")

_DROPPED = text("SELECT max(newest_at) FROM crossfeed.outbox_partition WHERE newest_at >= :since")

# Canaries are nobody's messages.
_FOUND = text("""
    SELECT count(*), count(DISTINCT (entity, partition_key, id)),
        (SELECT m.xid::text FROM crossfeed.outbox m WHERE m.at >= :since AND m.entity <> :canary ORDER BY m.xid LIMIT 1)
    FROM crossfeed.outbox
    WHERE at >= :since AND entity <> :canary
        AND CASE WHEN event_id IS NULL THEN 'states' ELSE 'events' END = ANY (:kinds)
""")

# What a cursor had not seen, it has not seen now; nor anything from the first transaction on. Owners lose their lease:
# a relay that read the old cursor can never write it back.
_REWIND = text("""
    UPDATE crossfeed.slot s SET target = NULL, position = 0, owner = NULL, token = token + 1, at = clock_timestamp(),
        seen = (
            SELECT (coalesce((array_agg(open ORDER BY open))[1], back.xmax) || ':' || back.xmax || ':'
                || coalesce(string_agg(open::text, ',' ORDER BY open), ''))::pg_snapshot
            FROM (SELECT least(pg_snapshot_xmax(s.seen), CAST(:first AS xid8)) AS xmax) AS back
            LEFT JOIN LATERAL pg_snapshot_xip(s.seen) AS open ON open < back.xmax
            GROUP BY back.xmax)
    WHERE carries = ANY (:kinds)
""")


async def replay(engine: AsyncEngine, since: datetime | timedelta, *, events: bool, dry_run: bool) -> Replay:
    """Move the cursors back to before what was written at `since` or later; relays then send it again.

    The time of a message is when it was written, not when its transaction was committed. Of documents the current state
    is sent, and documents that hold it already are left alone; events are written again only where they are missing.

    Args:
        engine: the database whose log it is.
        since: a moment with its time zone, or how long ago it is by the database's clock.
        events: events as well, not states alone.
        dry_run: count, and change nothing.

    Raises:
        ConflictError: messages that old were dropped, or nothing of the kind is sent in this phase.
        StoreUnavailableError: Postgres did not answer; nothing was changed.

    """
    with translated("replaying the log"):
        async with engine.begin() as connection:
            await connection.execute(GIVE_WAY)
            await connection.execute(KEEP_PARTITIONS)
            kinds = await _kinds(connection, events=events)
            moment = await _moment(connection, since)
            dropped = (await connection.execute(_DROPPED, {"since": moment})).scalar_one()
            if dropped is not None:
                msg = (
                    f"messages since {moment.isoformat()} were dropped already, the last of them from"
                    f" {dropped.isoformat()}; ask for later ones, or publish everything: crossfeed outbox resync"
                )
                raise ConflictError(msg)
            asked = {"since": moment, "kinds": kinds, "canary": CANARY}
            found = (await connection.execute(_FOUND, asked)).one()
            messages, documents, first = tuple(found)
            if messages and not dry_run:
                await connection.execute(_REWIND, {"first": first, "kinds": kinds})
    return Replay(moment, messages, documents, tuple(kinds))


async def _moment(connection: AsyncConnection, since: datetime | timedelta) -> datetime:
    if isinstance(since, timedelta):
        moment: datetime = (await connection.execute(_AGO, {"ago": since})).scalar_one()
        return moment
    return since


async def _kinds(connection: AsyncConnection, *, events: bool) -> list[str]:
    phase = await read_phase(connection)
    kinds = [*(["states"] if sends(phase) else []), *(["events"] if events else [])]
    if not kinds:
        msg = f"in phase {phase.phase.label} no states are sent to Cosmos DB, so none can be replayed"
        raise ConflictError(msg)
    return kinds
