"""Remembers which handler has had which domain event, in the transaction in which the handler did what it does.

Every event that is done with (handled, or a dead letter) has a row per handler, by its id: so a redelivery is noticed,
whatever its document looks like by then. Rows are kept for CROSSFEED_CONSUMER_KEEP_S; what is purged leaves one mark
per handler and aggregate: the highest place in the log and the newest document among the rows that went. An event
without a row then is

- new, if its place in the log is beyond the mark;
- known, if neither its place nor its document is: the feed is being read again;
- doubtful, if its place is not but its document is newer. An old event was written again (its document had expired and
  the log was replayed, or somebody touched it), or it arrives for the first time: after a detour that took longer than
  what is remembered, or from a database that was restored and gives numbers a second time. It becomes a dead letter
  that says so: neither dropped nor handled twice.

So the inbox holds the events of that time, and one small row per handler and aggregate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from core.content import content_of
from core.postgres.dead_letters import storable
from core.postgres.engine import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document

Key = tuple[str, str, str]
Chain = tuple[str, str]

_MAX_SEQUENCE = 2**63 - 1
_MAX_DIGITS = 100
"""Of a place in the log; whoever wrote more is none of ours, and `int` refuses what is very long."""
PURGED_AT_ONCE = 10_000
"""How many rows one purge takes."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event on its way to one handler.

    Args:
        handler: its name.
        subject: the event's aggregate, fit for a text column.
        event_id: the event's id, fit for a text column.
        sequence: its place in the log; 0 if the document names none.
        ts: when Cosmos DB last wrote its document, seconds since 1970.
        envelope: the document without what Cosmos DB adds.

    """

    handler: str
    subject: str
    event_id: str
    sequence: int
    ts: int
    envelope: Document

    @classmethod
    def of(cls, document: Document, handler: str) -> Self:
        """Read what a handler's inbox needs of a document, whatever is in it."""
        subject, sequence = document.get("subject"), document.get("sequence")
        place = 0
        if isinstance(sequence, str) and sequence.isdecimal() and len(sequence) <= _MAX_DIGITS:
            place = int(sequence)
        return cls(
            handler,
            storable(subject) if isinstance(subject, str) else "",
            storable(str(document.get("id"))),
            min(place, _MAX_SEQUENCE),
            int(document.get("_ts", 0)),
            content_of(document),
        )

    @property
    def key(self) -> Key:
        """What is handled once."""
        return self.handler, self.subject, self.event_id

    @property
    def chain(self) -> Chain:
        """What is handled in order."""
        return self.handler, self.subject


class Verdict(Enum):
    """What is to be done with an event that arrives."""

    NEW = "new"
    KNOWN = "known"
    DOUBTFUL = "doubtful"
    BEFORE_START = "before_start"


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known when an event arrives: whether it was had or is parked, whether its chain is, and its mark."""

    known: bool
    held: bool
    sequence: int | None
    ts: int | None

    def verdict(self, arrival: Arrival, since: int | None) -> Verdict:
        """Decide about an event of a handler that takes what was written at `since` or later (None: everything)."""
        if self.known:
            return Verdict.KNOWN
        if since is not None and arrival.ts < since:
            return Verdict.BEFORE_START
        if self.sequence is None or self.ts is None or arrival.sequence > self.sequence:
            return Verdict.NEW
        return Verdict.KNOWN if arrival.ts <= self.ts else Verdict.DOUBTFUL


def same_event(one: str, other: str) -> str:
    """Return the SQL that compares two events by an index (`inbox_event`, `inbox_parked_event`)."""
    return f"""{one}.handler = {other}.handler
        AND md5(md5({one}.subject) || {one}.event_id)::uuid = md5(md5({other}.subject) || {other}.event_id)::uuid"""


def same_chain(one: str, other: str) -> str:
    """Return the SQL that compares two chains by an index (`inbox_parked_chain`, `inbox_mark_aggregate`)."""
    return f"{one}.handler = {other}.handler AND md5({one}.subject)::uuid = md5({other}.subject)::uuid"


# All handlers of an aggregate share a lock, so that a page takes one per aggregate. The timeout is what lets others go
# on when a process was stopped in the middle of a handler, or of a page that nobody handles.
LOCK_SUBJECTS = """
    SELECT set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true), (
        SELECT count(pg_advisory_xact_lock(key)) FROM (
            SELECT DISTINCT hashtextextended('crossfeed.inbox ' || subject, 0) AS key
            FROM unnest(%(subjects)s::text[]) AS subject ORDER BY key
        ) AS keys)
"""

_TRY_LOCK = """
    SELECT pg_try_advisory_xact_lock(hashtextextended('crossfeed.inbox ' || %(subject)s::text, 0)),
        set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true)
"""

# The limits make it look into the indexes event by event, also while the planner takes the tables for small ones.
READ_MEMORY = f"""
    SELECT had.it IS NOT NULL OR parked.it IS NOT NULL, chain.it IS NOT NULL, mark.sequence, mark.ts
    FROM unnest(%(handlers)s::text[], %(subjects)s::text[], %(event_ids)s::text[])
        WITH ORDINALITY AS a(handler, subject, event_id, n)
    LEFT JOIN LATERAL (
        SELECT true AS it FROM crossfeed.inbox i WHERE {same_event("i", "a")} LIMIT 1) AS had ON true
    LEFT JOIN LATERAL (
        SELECT true AS it FROM crossfeed.inbox_parked p WHERE {same_event("p", "a")} LIMIT 1) AS parked ON true
    LEFT JOIN LATERAL (
        SELECT true AS it FROM crossfeed.inbox_parked c WHERE {same_chain("c", "a")} LIMIT 1) AS chain ON true
    LEFT JOIN LATERAL (
        SELECT m.sequence, m.ts FROM crossfeed.inbox_mark m WHERE {same_chain("m", "a")} LIMIT 1) AS mark ON true
    ORDER BY a.n
"""

_REMEMBER = """
    INSERT INTO crossfeed.inbox (handler, subject, event_id, sequence, ts)
    SELECT * FROM unnest(%(handlers)s::text[], %(subjects)s::text[], %(event_ids)s::text[], %(sequences)s::bigint[],
        %(ts)s::bigint[])
    ON CONFLICT DO NOTHING
"""

# One at a time: two would wait for each other's marks.
PURGE = f"""
    WITH turn AS MATERIALIZED (
        SELECT pg_try_advisory_xact_lock(hashtextextended('crossfeed.inbox_purge', 0)) AS mine
    ), old AS (
        DELETE FROM crossfeed.inbox i USING (
            SELECT handler, subject, event_id FROM crossfeed.inbox
            WHERE at < statement_timestamp() - make_interval(secs => %(keep_s)s) AND (SELECT mine FROM turn)
            ORDER BY at LIMIT {PURGED_AT_ONCE}
        ) AS o WHERE {same_event("i", "o")} RETURNING i.handler, i.subject, i.sequence, i.ts
    ), marked AS (
        INSERT INTO crossfeed.inbox_mark AS m (handler, subject, sequence, ts)
        SELECT handler, subject, max(sequence), max(ts) FROM old GROUP BY handler, subject
        ON CONFLICT (handler, (md5(subject)::uuid)) DO UPDATE
            SET sequence = greatest(m.sequence, excluded.sequence), ts = greatest(m.ts, excluded.ts)
    )
    SELECT count(*) FROM old
"""

_STARTS = """
    SELECT handler, floor(extract(epoch FROM since))::bigint FROM crossfeed.consumer
    WHERE handler = ANY(%(handlers)s::text[])
"""

_START = """
    INSERT INTO crossfeed.consumer (handler, since)
    SELECT handler, CASE WHEN from_now THEN clock_timestamp() END
    FROM unnest(%(handlers)s::text[], %(from_now)s::boolean[]) AS n(handler, from_now) ORDER BY handler
    ON CONFLICT DO NOTHING
"""


async def lock_subjects(connection: AsyncConnection, subjects: Iterable[str], idle_s: float) -> None:
    """Keep others off these aggregates until the caller's transaction ends; the first thing in there.

    What is read afterwards is read by statements of their own, so it is what others have committed.

    Args:
        connection: in a transaction.
        subjects: the aggregates.
        idle_s: seconds after which Postgres ends the transaction if nothing happens in it.

    """
    parameters = {"subjects": sorted(set(subjects)), "idle_ms": str(round(idle_s * 1000))}
    await connection.exec_driver_sql(LOCK_SUBJECTS, parameters)


async def try_lock_subject(connection: AsyncConnection, subject: str, idle_s: float) -> bool:
    """Do the same for one aggregate, unless somebody else has it; return whether it was to be had."""
    parameters = {"subject": subject, "idle_ms": str(round(idle_s * 1000))}
    return bool((await connection.exec_driver_sql(_TRY_LOCK, parameters)).one()[0])


async def read_memory(connection: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Memory]:
    """Return what is known of each arrival; the locks on their subjects are held."""
    if not arrivals:
        return []
    names = {name: columns(arrivals)[name] for name in ("handlers", "subjects", "event_ids")}
    return [Memory(*row) for row in await fetch(connection, READ_MEMORY, names)]


async def remember(connection: AsyncConnection, arrivals: Sequence[Arrival]) -> None:
    """Note that these are done with, in the transaction in which they were."""
    if arrivals:
        await connection.exec_driver_sql(_REMEMBER, columns(arrivals))


async def purge(connection: AsyncConnection, keep_s: float) -> int:
    """Forget the oldest of what is older than `keep_s` seconds, but for the marks; return how many rows went."""
    return int((await connection.exec_driver_sql(PURGE, {"keep_s": keep_s})).scalar_one())


async def starts_of(connection: AsyncConnection, from_now: Mapping[str, bool]) -> dict[str, int | None]:
    """Return since when each handler takes events, in seconds since 1970 (None: all), and record it for new ones.

    Args:
        connection: in a transaction.
        from_now: by its name, whether a handler that is new takes only what is written from now on.

    """
    names = {"handlers": list(from_now)}
    found = await fetch(connection, _STARTS, names)
    if len(found) < len(from_now):
        await connection.exec_driver_sql(_START, {**names, "from_now": list(from_now.values())})
        found = await fetch(connection, _STARTS, names)
    return dict(found)


def columns(arrivals: Sequence[Arrival]) -> dict[str, list[Any]]:
    """Return arrivals as the parameters of a statement that unnests them."""
    return {
        "handlers": [arrival.handler for arrival in arrivals],
        "subjects": [arrival.subject for arrival in arrivals],
        "event_ids": [arrival.event_id for arrival in arrivals],
        "sequences": [arrival.sequence for arrival in arrivals],
        "ts": [arrival.ts for arrival in arrivals],
    }
