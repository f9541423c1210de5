"""A page of a backfill costs the same wherever in the table it is: it is read in the order of an index."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from core.entity import Entity
from core.mapping import EntityMapping
from core.postgres.keyset import about, rows_after, tombstones_after
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.identity import Identity

METADATA = sa.MetaData()


class Reading(Entity):
    """Its partition key has two levels, of a number and a text, and the index names them in another order."""

    station: float
    sensor: str


READINGS: EntityMapping[Reading] = EntityMapping(
    Reading,
    table=sa.Table(
        "readings",
        METADATA,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("sensor", sa.Text, primary_key=True),
        sa.Column("station", sa.Float, primary_key=True),
    ),
    container="Readings",
    partition_key=("/station", "/sensor"),
)


@pytest.fixture
async def readings(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    await run(
        engine,
        "INSERT INTO readings SELECT 'r' || mod(n, 50), 's' || mod(n, 7), n * 0.1 FROM generate_series(1, 3000) AS n",
        "INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version)"
        """ SELECT 'Reading', '["' || n || '"]', 'r' || n, 1, 1 FROM generate_series(1, 3000) AS n""",
        "ANALYZE readings",
        "ANALYZE crossfeed.tombstone",
    )
    return engine


@pytest.mark.parametrize("walk", [rows_after, tombstones_after])
async def test_a_walk_meets_everything_once_and_never_sorts_or_reads_the_whole_table(
    readings: AsyncEngine, walk: Any
) -> None:
    found: list[Identity] = []
    place = middle = None
    async with readings.connect() as connection:
        while (page := await walk(connection, READINGS, place, 400)).identities:
            found += page.identities
            middle, place = place, json.loads(json.dumps(page.place))  # as it is written down
        assert len(found) == len(set(found)) == 3000
        asked: list[tuple[str, Any]] = []

        def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
            asked.append((sql, parameters))

        sa.event.listen(readings.sync_engine, "before_cursor_execute", note)
        await walk(connection, READINGS, middle, 10)
        sql, parameters = asked[-1]
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {sql}", parameters)).scalars())
        assert "Index" in plan
        assert "Sort" not in plan
        assert "Seq Scan" not in plan


async def test_how_many_rows_there_are_is_known_without_statistics_too(readings: AsyncEngine) -> None:
    async with readings.connect() as connection:
        assert await about(connection, READINGS) == 3000
    await run(readings, "UPDATE pg_class SET reltuples = -1 WHERE relname = 'readings'")
    async with readings.connect() as connection:
        assert await about(connection, READINGS) == 3000
