"""Purges what only the mirror leaves: tombstones that Cosmos DB has let go of, and what triggers said long ago."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from changefeed.progress import STALE_S
from core.cosmos.canaries import CANARY_TTL_S
from core.postgres.failures import translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

log = structlog.get_logger()

_PAGE: Final = 10_000
_MOST_PAGES: Final = 100
"""How many pages of tombstones one call purges: it must come to an end."""

# While Cosmos DB is the primary, every tombstone is either one that was mirrored from it, or was sent to it before the
# switch could end; its own copy lives for the TTL from then on. `at` is later than that, never earlier.
_TOMBSTONES = """
    DELETE FROM crossfeed.tombstone t USING (
        SELECT entity, partition_key, id FROM crossfeed.tombstone
        WHERE at < clock_timestamp() - make_interval(secs => %(ttl_s)s)
            AND EXISTS (SELECT FROM crossfeed.phase WHERE phase < 2 AND state = 'steady')
        LIMIT %(page)s FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE (t.entity, t.partition_key, t.id) = (old.entity, old.partition_key, old.id)
        AND md5(t.partition_key || t.id)::uuid = md5(old.partition_key || old.id)::uuid
"""
# What their documents carried as tombstones: no feed shows them again.
_EVENTS = """
    DELETE FROM crossfeed.event_taken WHERE deleted AND at < clock_timestamp() - make_interval(secs => %(age_s)s)
"""
_FAILURES = "DELETE FROM crossfeed.trigger_failure WHERE at < clock_timestamp() - make_interval(secs => %(age_s)s)"
_CANARIES = "DELETE FROM crossfeed.canary WHERE at < clock_timestamp() - make_interval(secs => %(age_s)s)"


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows one call has purged."""

    tombstones: int
    events: int
    failures: int
    canaries: int


async def purge(engine: AsyncEngine, settings: Settings) -> Purged:
    """Purge what is past its time, in short transactions; any process may do it at any time.

    Raises:
        StoreUnavailableError: Postgres did not answer; what was purged stays so.

    """
    tombstones = 0
    for _ in range(_MOST_PAGES):
        page = await _delete(engine, _TOMBSTONES, {"ttl_s": settings.tombstone_ttl_s, "page": _PAGE})
        tombstones += page
        if page < _PAGE:
            break
    events = await _delete(engine, _EVENTS, {"age_s": settings.tombstone_ttl_s})
    failures = await _delete(engine, _FAILURES, {"age_s": STALE_S})
    canaries = await _delete(engine, _CANARIES, {"age_s": CANARY_TTL_S})
    log.info("mirror.purged", tombstones=tombstones, events=events, failures=failures, canaries=canaries)
    return Purged(tombstones, events, failures, canaries)


async def _delete(engine: AsyncEngine, sql: str, parameters: dict[str, float]) -> int:
    with translated("purging what the mirror leaves"):
        async with engine.begin() as connection:
            return (await connection.exec_driver_sql(sql, parameters)).rowcount
