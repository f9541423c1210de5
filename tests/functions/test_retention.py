"""What the mirror leaves is purged when nobody can need it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from changefeed.retention import purge
from core.phases import Phase
from core.postgres.phases import open_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

_OLD = """
    INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version, at)
    SELECT 'Account', json_build_array(n)::text, n::text, 1, 1, now() - interval '31 days'
    FROM generate_series(1, 10500) AS n
"""


async def test_tombstones_are_purged_by_the_page_but_not_while_postgres_is_the_primary(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(_OLD)
    for phase in (Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ):
        await open_phase(engine, phase, who="tests", why="retention")
    assert (await purge(engine, settings)).tombstones == 0, "the relay may still have to send them"
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="tests", why="retention")
    assert (await purge(engine, settings)).tombstones == 10_500
    assert (await purge(engine, settings)).tombstones == 0


async def test_a_feed_range_that_is_no_more_is_forgotten(engine: AsyncEngine, settings: Settings) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO crossfeed.canary (direction, container, part, written, seen, unseen_since, at) VALUES"
            " ('to_postgres', 'c', 'gone', 'b', 'a', now() - interval '25 hours', now() - interval '25 hours'),"
            " ('to_postgres', 'c', 'here', 'a', 'a', NULL, now())"
        )
    assert (await purge(engine, settings)).canaries == 1
