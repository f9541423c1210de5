"""Says what is parked and why, in both directions, for whoever waits for something that does not arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.identity import Identity
from core.postgres.dead_letters import Direction, storable

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Parked:
    """What is tried again after `wait_s` seconds: a document, or an event, which `reference` names.

    That is the event's id on the way to Cosmos DB, and `handler:id` where a handler failed at it. An event that waits
    for an earlier one of its aggregate has no time of its own.
    """

    direction: Direction
    identity: Identity
    reference: str | None
    reason: str
    attempts: int
    first_at: datetime
    wait_s: float | None


# A subject is `entity/id`, with the key behind where that is not the id alone (core.events.subject_of).
_LIST = """
    SELECT direction, entity, partition_key, id, reference, reason, attempts, first_at,
        CASE WHEN retry_at < 'infinity' THEN greatest(extract(epoch FROM retry_at - clock_timestamp()), 0)::float8 END
    FROM (
        SELECT 'to_cosmos' AS direction, entity, partition_key, id, event_id AS reference, reason, attempts, first_at,
            retry_at, seq AS place
        FROM crossfeed.parked
        UNION ALL
        SELECT 'to_postgres', entity, partition_key, id, NULL, reason, attempts, first_at, retry_at, NULL
        FROM crossfeed.mirror_parked
        UNION ALL
        SELECT 'to_postgres', entity, coalesce(nullif(substr(subject, length(entity || id) + 3), ''),
                '[' || to_json(id) || ']'), id, handler || ':' || event_id, reason, attempts, first_at, retry_at, place
        FROM (SELECT *, split_part(subject, '/', 1) AS entity, split_part(subject, '/', 2) AS id
            FROM crossfeed.inbox_parked) AS event
    ) AS p
    WHERE (%(entity)s::text IS NULL OR entity = %(entity)s::text) AND (%(id)s::text IS NULL OR id = %(id)s::text)
    ORDER BY direction, entity, partition_key, id, place NULLS FIRST LIMIT %(limit)s
"""


async def list_parked(
    connection: AsyncConnection, *, entity: str | None = None, id_: str | None = None, limit: int
) -> list[Parked]:
    """Return what is parked, of one entity type and id if given, those of one document together and in order."""
    parameters = {
        "entity": storable(entity) if entity is not None else None,
        "id": storable(id_) if id_ is not None else None,
        "limit": limit,
    }
    result = await connection.exec_driver_sql(_LIST, parameters)
    return [Parked(Direction(row[0]), Identity(*row[1:4]), *row[4:]) for row in map(tuple, result)]
