"""Holds an aggregate's later events behind one that failed, by value and in order, until it has passed or is given up.

The parked events of an aggregate are a chain. Its head, the one with the lowest sequence number, is tried again after
a backoff; the others wait without a time of their own until they are the head. How a page of events goes:

    parked_aggregates(...) before anything is sent -> what is of one of them is held, unsent; the others are sent
    begin -> hold(tokens) -> park_events(...) -> advance(...) -> commit, before the next page is looked at

and how a retry does, one at a time in a relay:

    due_events(...) -> sent in order -> begin -> hold(tokens) -> settle_events(...), park_events(...) -> commit

`hold` (outbox.parking) is the fence, and what makes it impossible that a chain grows while its head leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.cosmos.event_sink import EventMessage
from core.identity import Identity
from core.postgres.backoff import BACKOFF, DUE
from core.postgres.dead_letters import identity_columns, storable
from core.postgres.names import KEY_DIGEST
from outbox.parking import AGAIN, bury

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncConnection

    from outbox.parking import ParkingPolicy


@dataclass(frozen=True, slots=True)
class EventFailure:
    """Why an event did not arrive, the first of its aggregate that did not; the fields as those of parking.Failure."""

    message: EventMessage
    reason: str
    counts: bool
    retry_after_s: float = 0.0


_EVENTS = """
    unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(seqs)s::bigint[], %(event_ids)s::text[],
        %(events)s::text[], %(traceparents)s::text[], %(reasons)s::text[], %(counts)s::boolean[],
        %(retry_after_s)s::float8[])
    AS f(entity, partition_key, id, seq, event_id, event, traceparent, reason, counts, retry_after_s)
"""

_PARK = f"""
    INSERT INTO crossfeed.parked AS p (slot, entity, partition_key, id, seq, event_id, event, traceparent, reason,
        attempts, retry_at)
    SELECT crossfeed.event_slot_of(f.entity, f.partition_key, f.id), f.entity, f.partition_key, f.id, f.seq, f.event_id,
        f.event::json, f.traceparent, f.reason, f.counts::int,
        clock_timestamp() + greatest(make_interval(secs => least(f.retry_after_s, %(longest_s)s)),
            {BACKOFF.format(attempts=1, age="interval '0'")})
    FROM {_EVENTS}
    ON CONFLICT (entity, {KEY_DIGEST}, seq) WHERE event_id IS NOT NULL DO UPDATE SET reason = excluded.reason,
        attempts = p.attempts + excluded.attempts, last_at = clock_timestamp(),
        retry_at = greatest(excluded.retry_at, clock_timestamp() + {AGAIN})
    RETURNING p.number, p.seq, p.attempts
"""

_HOLD_BACK = f"""
    INSERT INTO crossfeed.parked (slot, entity, partition_key, id, seq, event_id, event, traceparent, reason, attempts,
        retry_at)
    SELECT crossfeed.event_slot_of(f.entity, f.partition_key, f.id), f.entity, f.partition_key, f.id, f.seq, f.event_id,
        f.event::json, f.traceparent, f.reason, 0, 'infinity'
    FROM {_EVENTS}
    ON CONFLICT (entity, {KEY_DIGEST}, seq) WHERE event_id IS NOT NULL DO NOTHING
"""

_SAME_AGGREGATE = """
    p.event_id IS NOT NULL AND p.entity = a.entity
        AND md5(p.partition_key || p.id)::uuid = md5(a.partition_key || a.id)::uuid
        AND p.partition_key = a.partition_key AND p.id = a.id
"""

_AGGREGATES = "unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[]) AS a(entity, partition_key, id)"

# The head's place was taken by the next one, or was never taken: then its time is now.
_PROMOTE = f"""
    UPDATE crossfeed.parked head SET retry_at = clock_timestamp()
    FROM {_AGGREGATES}
    WHERE head.retry_at = 'infinity' AND head.number = (
        SELECT p.number FROM crossfeed.parked p WHERE {_SAME_AGGREGATE} ORDER BY p.seq LIMIT 1
    )
"""

PARKED_AGGREGATES = f"""
    SELECT a.entity, a.partition_key, a.id FROM {_AGGREGATES}
    WHERE EXISTS (SELECT FROM crossfeed.parked p WHERE {_SAME_AGGREGATE})
"""

# Aggregate by aggregate in a nested loop, so that the limit cuts a chain only at its end.
DUE_EVENTS = f"""
    WITH a AS MATERIALIZED (
        SELECT p.entity, p.partition_key, p.id FROM crossfeed.parked p
        WHERE p.slot = ANY(%(slots)s::smallint[]) AND p.event_id IS NOT NULL AND {DUE}
            AND NOT EXISTS (
                SELECT FROM crossfeed.parked earlier WHERE earlier.event_id IS NOT NULL AND earlier.entity = p.entity
                    AND md5(earlier.partition_key || earlier.id)::uuid = md5(p.partition_key || p.id)::uuid
                    AND earlier.seq < p.seq
            )
        ORDER BY p.retry_at LIMIT %(limit)s
    )
    SELECT chain.* FROM a CROSS JOIN LATERAL (
        SELECT p.seq, p.entity, p.partition_key, p.id, p.event_id, p.event::text, p.traceparent,
            extract(epoch FROM clock_timestamp() - p.first_at)::float8
        FROM crossfeed.parked p WHERE {_SAME_AGGREGATE} ORDER BY p.seq LIMIT %(limit)s
    ) AS chain LIMIT %(limit)s
"""

_SETTLE = f"""
    WITH a AS MATERIALIZED (
        SELECT * FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(seqs)s::bigint[],
            %(event_ids)s::text[]) AS a(entity, partition_key, id, seq, event_id)
    ), passed AS (
        DELETE FROM crossfeed.parked p USING a WHERE {_SAME_AGGREGATE} AND p.seq = a.seq
    )
    DELETE FROM crossfeed.dead_letter p USING a
    WHERE p.direction = 'to_cosmos' AND p.kind = 'event' AND p.entity = a.entity
        AND md5(p.partition_key || p.id)::uuid = md5(a.partition_key || a.id)::uuid
        AND p.partition_key = a.partition_key AND p.id = a.id AND p.reference = a.event_id
"""

HELD = "an earlier event of its aggregate was not delivered"


async def parked_aggregates(connection: AsyncConnection, identities: Iterable[Identity]) -> set[Identity]:
    """Return those of the aggregates that have parked events: what is new of them must be held, not sent."""
    known = set(identities)
    if not known:
        return set()
    result = await connection.exec_driver_sql(PARKED_AGGREGATES, identity_columns(known))
    return {Identity(*names) for names in map(tuple, result)}


async def park_events(
    connection: AsyncConnection, failures: Sequence[EventFailure], held: Sequence[EventMessage], policy: ParkingPolicy
) -> list[EventMessage]:
    """Park events that were not delivered, in the caller's transaction, which holds their slots.

    Args:
        connection: in that transaction.
        failures: at most one of each aggregate.
        held: later events of those, and of aggregates that were parked before.
        policy: says when to give up.

    Returns:
        Those that became dead letters by it; the event that follows such a one is due at once.

    """
    dead: list[EventMessage] = []
    if failures:
        messages = {failure.message.seq: failure.message for failure in failures}
        parameters = {
            **_columns(list(messages.values())),
            "reasons": [storable(failure.reason) for failure in failures],
            "counts": [failure.counts for failure in failures],
            "retry_after_s": [failure.retry_after_s for failure in failures],
            "first_s": policy.first_s,
            "longest_s": policy.longest_s,
        }
        parked = [tuple(row) for row in await connection.exec_driver_sql(_PARK, parameters)]
        given_up = [(number, seq) for number, seq, attempts in parked if attempts >= policy.attempts]
        await bury(connection, [number for number, _ in given_up])
        dead = [messages[seq] for _, seq in given_up]
    if held:
        rest = {"reasons": [HELD] * len(held), "counts": [False] * len(held), "retry_after_s": [0.0] * len(held)}
        await connection.exec_driver_sql(_HOLD_BACK, {**_columns(held), **rest})
    await _promote(connection, [*(message.identity for message in held), *(message.identity for message in dead)])
    return dead


async def settle_events(connection: AsyncConnection, delivered: Sequence[EventMessage]) -> None:
    """Forget what is parked and dead of events that have arrived, in a transaction that holds their slots.

    A page of the log needs it only where there are dead letters (an event was read again by a replay).
    """
    if not delivered:
        return
    columns = _columns(delivered)
    await connection.exec_driver_sql(
        _SETTLE, {name: columns[name] for name in ("entities", "keys", "ids", "seqs", "event_ids")}
    )
    await _promote(connection, [message.identity for message in delivered])


async def due_events(
    connection: AsyncConnection, slots: Sequence[int], limit: int, policy: ParkingPolicy
) -> list[EventMessage]:
    """Return the chains of aggregates whose head is to be tried again now, in sequence order.

    A chain that does not fit `limit` (events in all) is cut at its end; ask again once its beginning has passed.
    """
    parameters = {"slots": list(slots), "limit": limit, "longest_s": policy.longest_s}
    result = await connection.exec_driver_sql(DUE_EVENTS, parameters)
    found = [
        EventMessage(seq, Identity(entity, partition_key, id_), event_id, event, traceparent, age_s)
        for seq, entity, partition_key, id_, event_id, event, traceparent, age_s in map(tuple, result)
    ]
    return sorted(found, key=lambda message: message.seq)


async def _promote(connection: AsyncConnection, identities: Iterable[Identity]) -> None:
    if known := sorted(set(identities)):
        await connection.exec_driver_sql(_PROMOTE, identity_columns(known))


def _columns(messages: Sequence[EventMessage]) -> dict[str, Any]:
    return {
        **identity_columns(message.identity for message in messages),
        "seqs": [message.seq for message in messages],
        "event_ids": [message.event_id for message in messages],
        "events": [message.event for message in messages],
        "traceparents": [message.traceparent for message in messages],
    }
