"""Puts dead letters back to where they fell out of the way to Cosmos DB: among what is parked, and due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.postgres.dead_letter_search import as_seen
from core.postgres.names import KEY_DIGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.postgres.dead_letter_search import StoredLetter

# The number of slots stays what it is until the letters are in theirs.
_KEEP_SLOTS = "LOCK TABLE crossfeed.slot IN ROW SHARE MODE"

# Attempts go on where they ended: one more refusal, and it is a dead letter again. An event takes the place in front of
# its aggregate's later ones that its number says. What is parked already under the same name is the same thing.
_REPLAY = f"""
    WITH back AS (
        DELETE FROM crossfeed.dead_letter l
        USING unnest(%(numbers)s::bigint[], %(last_at)s::timestamptz[]) AS seen(number, last_at)
        WHERE l.number = seen.number AND l.last_at = seen.last_at AND l.direction = 'to_cosmos'
            AND (l.kind = 'refused' OR (l.kind = 'event' AND l.seq IS NOT NULL))
        RETURNING l.*
    ), states AS (
        INSERT INTO crossfeed.parked AS p (slot, entity, partition_key, id, traceparent, reason, attempts, first_at,
            last_at, retry_at)
        SELECT crossfeed.slot_of(entity, partition_key, id), entity, partition_key, id, traceparent, reason, attempts,
            first_at, last_at, clock_timestamp()
        FROM back WHERE kind = 'refused'
        ON CONFLICT (entity, {KEY_DIGEST}) WHERE event_id IS NULL DO UPDATE SET retry_at = excluded.retry_at,
            attempts = greatest(p.attempts, excluded.attempts), first_at = least(p.first_at, excluded.first_at)
    ), events AS (
        INSERT INTO crossfeed.parked (slot, entity, partition_key, id, seq, event_id, event, traceparent, reason,
            attempts, first_at, last_at, retry_at)
        SELECT crossfeed.event_slot_of(entity, partition_key, id), entity, partition_key, id, seq, reference, document,
            traceparent, reason, attempts, first_at, last_at, clock_timestamp()
        FROM back WHERE kind = 'event'
        ON CONFLICT (entity, {KEY_DIGEST}, seq) WHERE event_id IS NOT NULL DO NOTHING
    )
    SELECT number FROM back
"""


async def replay(connection: AsyncConnection, letters: Sequence[StoredLetter]) -> set[int]:
    """Park letters of the direction to_cosmos again, in the caller's transaction; the relay tries them at once.

    Of a state what is sent is the current one, in the phase in which states are sent. A document that arrives
    meanwhile is settled as ever.

    Returns:
        The numbers of those that were there as they were seen, and are such letters.

    """
    await connection.exec_driver_sql(_KEEP_SLOTS)
    result = await connection.exec_driver_sql(_REPLAY, as_seen(letters))
    return {number for (number,) in result}
