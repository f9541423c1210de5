"""Holds an aggregate's later events behind one that a handler failed at, by value and in order, for that handler alone.

The parked events of one handler and aggregate are a chain. Its head, the one with the lowest place, is tried again
after a backoff; the others have no time of their own until they are the head. After so many failures that count the
head is a dead letter and the chain goes on without it, as the relay's does: one event that nobody can handle must not
stop its aggregate for ever, and whoever reads the letter knows which one is missing. The letter keeps the event's
place, so that a replay puts it in front of what still waits.

Everything here happens under the lock on the chain's subject (changefeed.inbox).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from changefeed.inbox import Arrival, columns, lock_subjects, same_chain
from core.events import aggregate_of
from core.postgres.backoff import BACKOFF, DUE
from core.postgres.dead_letter_search import as_seen
from core.postgres.dead_letters import EVENT, Direction, identity_columns, json_text, storable
from core.postgres.engine import fetch
from core.postgres.names import KEY_DIGEST

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from changefeed.inbox import Chain
    from core.postgres.dead_letter_search import StoredLetter
    from core.settings import Settings

HELD = "an earlier event of its aggregate was not handled"
LONGEST_CHAIN = 100
"""How many events of a chain are tried in one transaction."""
REPLAY_S = 60.0
"""How long a replay may sit idle in its transaction, in seconds."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how soon a handler gets an event again.

    Args:
        attempts: failures after which it is a dead letter.
        first_s: the longest first wait in seconds; it doubles with every failure.
        longest_s: the longest wait of all in seconds.

    """

    attempts: int
    first_s: float
    longest_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings say."""
        return cls(settings.consumer_attempts, settings.consumer_retry_first_s, settings.consumer_retry_max_s)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event to park: as the head of its chain, after so many failures that counted, or behind it (None)."""

    arrival: Arrival
    reason: str
    attempts: int | None


@dataclass(frozen=True, slots=True)
class Parked:
    """An event of a chain. `is_due`: its time has come, or will come with that of the event in front of it."""

    place: int
    arrival: Arrival
    attempts: int
    first_at: datetime
    is_due: bool


@dataclass(frozen=True, slots=True)
class Dead:
    """An event to give up. One that was never parked has no place and no time yet."""

    arrival: Arrival
    reason: str
    attempts: int
    place: int | None = None
    first_at: datetime | None = None


_PARK = f"""
    INSERT INTO crossfeed.inbox_parked (handler, subject, event_id, sequence, ts, event, reason, attempts, retry_at)
    SELECT handler, subject, event_id, sequence, ts, event::json, reason, coalesce(attempts, 0),
        CASE WHEN attempts IS NULL THEN 'infinity'
            ELSE clock_timestamp() + {BACKOFF.format(attempts="attempts", age="interval '0'")} END
    FROM unnest(%(handlers)s::text[], %(subjects)s::text[], %(event_ids)s::text[], %(sequences)s::bigint[],
        %(ts)s::bigint[], %(events)s::text[], %(reasons)s::text[], %(attempts)s::bigint[])
        WITH ORDINALITY AS w(handler, subject, event_id, sequence, ts, event, reason, attempts, n)
    ORDER BY n
"""

# Heads alone.
DUE_CHAINS = f"""
    SELECT p.handler, p.subject FROM crossfeed.inbox_parked p
    WHERE p.handler = ANY(%(handlers)s::text[]) AND {DUE}
        AND NOT EXISTS (SELECT FROM crossfeed.inbox_parked e WHERE {same_chain("e", "p")} AND e.place < p.place)
    ORDER BY p.retry_at LIMIT %(limit)s
"""

READ_CHAIN = f"""
    SELECT p.place, p.handler, p.subject, p.event_id, p.sequence, p.ts, p.event::text, p.attempts, p.first_at,
        p.retry_at = 'infinity' OR {DUE}
    FROM (SELECT %(handler)s::text AS handler, %(subject)s::text AS subject) AS c
    JOIN crossfeed.inbox_parked p ON {same_chain("p", "c")} ORDER BY p.place LIMIT {LONGEST_CHAIN}
"""

_FAIL_AGAIN = f"""
    UPDATE crossfeed.inbox_parked p SET reason = %(reason)s, attempts = %(attempts)s, last_at = clock_timestamp(),
        retry_at = clock_timestamp() + {BACKOFF.format(attempts="%(attempts)s", age="clock_timestamp() - p.first_at")}
    WHERE p.place = %(place)s
"""

_LEAVE = "DELETE FROM crossfeed.inbox_parked WHERE place = ANY(%(places)s::bigint[])"

# The head's place was taken by the next one: its time is now.
_PROMOTE = f"""
    UPDATE crossfeed.inbox_parked head SET retry_at = clock_timestamp()
    WHERE head.retry_at = 'infinity' AND head.place = (
        SELECT min(p.place) FROM (SELECT %(handler)s::text AS handler, %(subject)s::text AS subject) AS c
        JOIN crossfeed.inbox_parked p ON {same_chain("p", "c")})
"""

_BURY = f"""
    INSERT INTO crossfeed.dead_letter AS l (direction, kind, entity, partition_key, id, reference, reason, document,
        attempts, first_at, seq, traceparent)
    SELECT 'to_postgres', 'event', entity, partition_key, id, reference, reason, event::json, attempts,
        coalesce(first_at, clock_timestamp()), coalesce(place, nextval('crossfeed.inbox_place')), traceparent
    FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(references)s::text[], %(reasons)s::text[],
        %(events)s::text[], %(attempts)s::bigint[], %(first_at)s::timestamptz[], %(places)s::bigint[],
        %(traceparents)s::text[])
        WITH ORDINALITY AS d(entity, partition_key, id, reference, reason, event, attempts, first_at, place,
            traceparent, n)
    ORDER BY n
    ON CONFLICT (direction, kind, entity, {KEY_DIGEST}, reference) DO UPDATE SET reason = excluded.reason,
        document = excluded.document, attempts = excluded.attempts, last_at = clock_timestamp(), seq = excluded.seq
"""

# Attempts go on where they ended: one more failure, and it is a dead letter again.
_REPLAY = """
    WITH back AS (
        DELETE FROM crossfeed.dead_letter l
        USING unnest(%(numbers)s::bigint[], %(last_at)s::timestamptz[]) AS seen(number, last_at)
        WHERE l.number = seen.number AND l.last_at = seen.last_at
        RETURNING l.*
    ), parked AS (
        INSERT INTO crossfeed.inbox_parked (place, handler, subject, event_id, sequence, ts, event, reason, attempts,
            first_at, last_at, retry_at)
        SELECT b.seq, a.handler, a.subject, a.event_id, a.sequence, a.ts, b.document, b.reason, b.attempts, b.first_at,
            b.last_at, clock_timestamp()
        FROM back b JOIN unnest(%(numbers)s::bigint[], %(handlers)s::text[], %(subjects)s::text[],
            %(event_ids)s::text[], %(sequences)s::bigint[], %(ts)s::bigint[])
            AS a(number, handler, subject, event_id, sequence, ts) USING (number)
        ON CONFLICT DO NOTHING
    )
    SELECT number FROM back
"""

_DOCUMENTS = "SELECT number, document::text FROM crossfeed.dead_letter WHERE number = ANY(%(numbers)s::bigint[])"


async def park(connection: AsyncConnection, waiting: Sequence[Waiting], patience: Patience) -> None:
    """Park events in their order, in the transaction in which they failed or were held."""
    if waiting:
        arrivals = [item.arrival for item in waiting]
        parameters = {
            **columns(arrivals),
            "events": [json_text(arrival.envelope) for arrival in arrivals],
            "reasons": [storable(item.reason) for item in waiting],
            "attempts": [item.attempts for item in waiting],
            "first_s": patience.first_s,
            "longest_s": patience.longest_s,
        }
        await connection.exec_driver_sql(_PARK, parameters)


async def due_chains(
    connection: AsyncConnection, handlers: Sequence[str], limit: int, patience: Patience
) -> list[Chain]:
    """Return chains of these handlers whose head is to be tried again now, the longest due first."""
    parameters = {"handlers": list(handlers), "limit": limit, "longest_s": patience.longest_s}
    return [(handler, subject) for handler, subject in await fetch(connection, DUE_CHAINS, parameters)]


async def read_chain(connection: AsyncConnection, chain: Chain, patience: Patience) -> list[Parked]:
    """Return the beginning of a chain, its head first."""
    parameters = {"handler": chain[0], "subject": chain[1], "longest_s": patience.longest_s}
    rows = await fetch(connection, READ_CHAIN, parameters)
    return [
        Parked(place, Arrival(handler, subject, event_id, sequence, ts, json.loads(event)), *rest)
        for place, handler, subject, event_id, sequence, ts, event, *rest in rows
    ]


async def fail_again(connection: AsyncConnection, place: int, failed: Waiting, patience: Patience) -> None:
    """Note that the event at this place has failed, once more or for the first time; it is the head now."""
    parameters = {
        "place": place,
        "reason": storable(failed.reason),
        "attempts": failed.attempts,
        "first_s": patience.first_s,
        "longest_s": patience.longest_s,
    }
    await connection.exec_driver_sql(_FAIL_AGAIN, parameters)


async def leave(connection: AsyncConnection, chain: Chain, places: Sequence[int]) -> None:
    """Take events off the front of a chain; what is its head now is due."""
    if places:
        await connection.exec_driver_sql(_LEAVE, {"places": list(places)})
        await connection.exec_driver_sql(_PROMOTE, {"handler": chain[0], "subject": chain[1]})


async def bury(connection: AsyncConnection, dead: Sequence[Dead]) -> None:
    """Write dead letters; their reference is `handler:event id`."""
    if dead:
        arrivals = [item.arrival for item in dead]
        parents = [arrival.envelope.get("traceparent") for arrival in arrivals]
        parameters: dict[str, Any] = {
            **identity_columns(aggregate_of(arrival.subject) for arrival in arrivals),
            "references": [f"{arrival.handler}:{arrival.event_id}" for arrival in arrivals],
            "reasons": [storable(item.reason) for item in dead],
            "events": [json_text(arrival.envelope) for arrival in arrivals],
            "attempts": [item.attempts for item in dead],
            "first_at": [item.first_at for item in dead],
            "places": [item.place for item in dead],
            "traceparents": [storable(parent) if isinstance(parent, str) else None for parent in parents],
        }
        await connection.exec_driver_sql(_BURY, parameters)


async def replay(connection: AsyncConnection, letters: Sequence[StoredLetter]) -> set[int]:
    """Park dead letters of this kind again, in the caller's transaction; whoever runs their handler tries them at once.

    Returns:
        The numbers of those that were there as they were seen, and are such letters.

    """
    found = await fetch(connection, _DOCUMENTS, {"numbers": [letter.number for letter in letters]})
    documents = dict(found)
    there = [letter for letter in letters if is_of_a_handler(letter) and letter.number in documents]
    arrivals = [
        Arrival.of(json.loads(documents[letter.number]), letter.reference.partition(":")[0]) for letter in there
    ]
    await lock_subjects(connection, [arrival.subject for arrival in arrivals], REPLAY_S)
    result = await connection.exec_driver_sql(_REPLAY, {**columns(arrivals), **as_seen(there)})
    return {number for (number,) in result}


def is_of_a_handler(letter: StoredLetter) -> bool:
    """Whether a letter holds an event at which a handler failed, by its reference; others of the kind are evidence."""
    return letter.direction is Direction.TO_POSTGRES and letter.kind == EVENT and ":" in letter.reference
