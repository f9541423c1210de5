"""Says what is parked and why, for whoever waits for a document that does not arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.identity import Identity
from core.postgres.dead_letters import storable

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Parked:
    """A document, or an event (`reference` is its id, else None), that is tried again after `wait_s` seconds.

    An event that waits for an earlier one of its aggregate has no time of its own.
    """

    identity: Identity
    reference: str | None
    reason: str
    attempts: int
    first_at: datetime
    wait_s: float | None


_LIST = """
    SELECT entity, partition_key, id, event_id, reason, attempts, first_at,
        CASE WHEN retry_at < 'infinity' THEN greatest(extract(epoch FROM retry_at - clock_timestamp()), 0)::float8 END
    FROM crossfeed.parked
    WHERE (%(entity)s::text IS NULL OR entity = %(entity)s::text) AND (%(id)s::text IS NULL OR id = %(id)s::text)
    ORDER BY entity, partition_key, id, seq NULLS FIRST LIMIT %(limit)s
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
    return [Parked(Identity(*row[:3]), *row[3:]) for row in map(tuple, result)]
