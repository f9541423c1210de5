"""G1's other half: while Postgres is not primary nothing can be written past capture, and some shapes never can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from core.entity import Entity
from core.mapping import EntityMapping
from core.phases import Phase
from core.postgres import capture
from core.postgres.phases import open_phase
from tests.integration.relay_steps import connect, logged, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

WRITES = [
    "INSERT INTO accounts (id) VALUES ('b')",
    "INSERT INTO accounts (id) SELECT 'b' WHERE false",
    "UPDATE accounts SET email = 'x'",
    "UPDATE accounts SET email = 'x' WHERE false",
    "DELETE FROM accounts",
    "INSERT INTO accounts (id) VALUES ('a') ON CONFLICT DO NOTHING",
    "INSERT INTO accounts (id) VALUES ('a') ON CONFLICT (id) DO UPDATE SET email = 'x'",
    """MERGE INTO accounts t USING (VALUES ('a')) AS s (id) ON t.id = s.id
        WHEN MATCHED THEN UPDATE SET email = 'x' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)""",
    "WITH gone AS (DELETE FROM accounts RETURNING *) SELECT count(*) FROM gone",
    """INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
        VALUES (0, 'Account', '["a"]', 'a', 1, 1, false)""",
]


class Thing(Entity):
    """An aggregate of these tests."""


async def refused(psql: psycopg.AsyncConnection[Any], statement: str) -> str | None:
    """The SQLSTATE with which a statement was refused."""
    try:
        await psql.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate
    return None


@pytest.mark.parametrize("phase", [Phase.COSMOS_ONLY, Phase.DUAL_WRITE_COSMOS_READ])
async def test_while_cosmos_is_primary_every_write_is_refused(
    settings: Settings, engine: AsyncEngine, phase: Phase
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    before = await logged(engine)
    async with await connect(settings) as psql, await connect(settings) as early:
        await psql.execute("PREPARE put AS UPDATE accounts SET email = 'x'")
        await psql.execute("EXECUTE put")
        await early.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await early.execute("SELECT count(*) FROM crossfeed.phase")
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
        if phase is Phase.COSMOS_ONLY:
            await open_phase(engine, Phase.COSMOS_ONLY, who="test", why="test")
        assert await refused(early, "UPDATE accounts SET email = 'y'") == "CF001"
        await early.execute("ROLLBACK")
        for statement in WRITES:
            if statement.startswith("MERGE") and psql.info.server_version < 150000:
                continue
            assert await refused(psql, statement) == "CF001", statement
        assert await refused(psql, "EXECUTE put") == "CF001"
        with pytest.raises(psycopg.Error) as copying:
            async with psql.cursor() as cursor, cursor.copy("COPY accounts (id) FROM STDIN") as copy:
                await copy.write_row(("b",))
        assert copying.value.sqlstate == "CF001"
        assert (await (await psql.execute("SELECT count(*) FROM accounts")).fetchone()) == (1,)
    assert len(await logged(engine)) == len(before) + 1  # the prepared statement, before the step


async def test_truncate_is_refused_in_every_phase_because_it_leaves_no_tombstones(
    settings: Settings, engine: AsyncEngine
) -> None:
    async with await connect(settings) as psql:
        assert await refused(psql, "TRUNCATE accounts") == "CF002"
        await make_primary(engine)
        assert await refused(psql, "TRUNCATE user_profiles, accounts CASCADE") == "CF002"
        assert await refused(psql, "SET crossfeed.mirroring = 'on'; TRUNCATE accounts") == "CF002"


async def test_a_foreign_key_that_cascades_between_mapped_tables_is_refused(engine: AsyncEngine) -> None:
    metadata = sa.MetaData()
    one = sa.Table("one", metadata, sa.Column("id", sa.Text, primary_key=True))
    other = sa.Table(
        "other",
        metadata,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("one", sa.Text, sa.ForeignKey("one.id", ondelete="CASCADE")),
    )
    mappings = [
        EntityMapping(Thing, table=table, container=table.name, partition_key="/id", name=table.name)
        for table in (one, other)
    ]
    async with engine.connect() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.run_sync(capture.install, mappings[0])
        with pytest.raises(DBAPIError, match="cascades"):
            await connection.run_sync(capture.install, mappings[1])


async def test_a_partitioned_table_and_a_view_are_refused(engine: AsyncEngine) -> None:
    await run(
        engine,
        "CREATE TABLE parts (id text PRIMARY KEY) PARTITION BY HASH (id)",
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE VIEW seen AS SELECT * FROM accounts",
    )
    for name in ("parts", "parts_0", "seen"):
        table = sa.Table(name, sa.MetaData(), sa.Column("id", sa.Text, primary_key=True))
        mapping = EntityMapping(Thing, table=table, container="Things", partition_key="/id")
        with pytest.raises(DBAPIError, match="not an ordinary table"):
            async with engine.begin() as connection:
                await connection.run_sync(capture.install, mapping)
