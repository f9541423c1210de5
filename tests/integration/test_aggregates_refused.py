"""What keys of aggregates may be: those that cannot keep aggregates apart are refused, long ones block nobody."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from core.errors import MappingError
from core.mapping import EntityMapping
from core.postgres import capture
from core.postgres.fit import check_fit
from core.postgres.held import _statement as held_statement
from core.postgres.held import read_held
from tests.integration.aggregate_steps import MAPPED, Order, Stock
from tests.integration.relay_steps import logged, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP CONSTRAINT order_lines_order_id_fkey", "needs a foreign key"),
        ("ALTER CONSTRAINT order_lines_order_id_fkey DEFERRABLE", "needs a foreign key"),
        ("ADD FOREIGN KEY (item) REFERENCES stock ON DELETE CASCADE", "cascades from stock to order_lines"),
        ("ALTER order_id TYPE character(9)", "order_id of order_lines has type bpchar"),
        ("ALTER item DROP NOT NULL, ALTER line ADD GENERATED ALWAYS AS IDENTITY", "line is generated always"),
    ],
)
async def test_keys_that_do_not_keep_aggregates_apart_are_refused(
    installed: AsyncEngine, change: str, said: str
) -> None:
    async with installed.begin() as connection:
        await check_fit(connection, MAPPED)
        await connection.exec_driver_sql(f"ALTER TABLE order_lines {change}")
        with pytest.raises(MappingError, match=said):
            await check_fit(connection, MAPPED)
        if "generated" not in said:  # the capture would work
            with pytest.raises(DBAPIError, match=said):
                await connection.run_sync(capture.install, MAPPED.of(Order))


async def test_a_root_that_deletes_other_roots_by_cascade_is_refused(installed: AsyncEngine) -> None:
    await run(installed, "ALTER TABLE orders ADD parent text REFERENCES orders ON DELETE CASCADE")
    async with installed.begin() as connection:
        with pytest.raises(MappingError, match="cascades from orders to orders"):
            await check_fit(connection, MAPPED)


async def test_a_key_that_ignores_case_is_refused(engine: AsyncEngine) -> None:
    stock = MAPPED.of(Stock)
    async with engine.begin() as connection:
        await connection.run_sync(stock.table.create)
        for statement in (
            'CREATE COLLATION loose FROM "C"',
            "ALTER TABLE stock ALTER id TYPE text COLLATE loose",
            "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose'",  # a build may have no ICU
        ):
            await connection.exec_driver_sql(statement)
        with pytest.raises(DBAPIError, match="COLLATE loose, which calls different keys equal"):
            await connection.run_sync(capture.install, stock)


@pytest.mark.parametrize(("name", "said"), [("path", "name of another type"), ("100%", "percent sign")])
async def test_a_table_with_a_name_that_means_something_else_is_refused(
    engine: AsyncEngine, name: str, said: str
) -> None:
    table = sa.Table(name, sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("sold", sa.Integer))
    mapping = EntityMapping(Stock, table=table, container="Stock", partition_key="/id")
    async with engine.begin() as connection:
        await connection.run_sync(table.create)
        with pytest.raises((MappingError, DBAPIError), match=said):
            await connection.run_sync(capture.install, mapping)


async def test_keys_as_long_as_cosmos_takes_them_block_nobody(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(
        engine,
        "ALTER TABLE game_sessions DROP CONSTRAINT game_sessions_pkey",
        f"INSERT INTO game_sessions (id, account_id) VALUES ('{secrets.token_hex(511)}', '{secrets.token_hex(1024)}')",
        "DELETE FROM game_sessions",
    )
    assert len(await logged(engine)) == 2


async def test_a_tombstone_is_found_by_the_digest_of_its_key(installed: AsyncEngine) -> None:
    async with installed.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version)"
            " SELECT 'Stock', to_jsonb(ARRAY['s' || n])::text, 's' || n, 1, 1 FROM generate_series(1, 20000) AS n"
        )
        await connection.exec_driver_sql("ANALYZE crossfeed.tombstone")
        stock = MAPPED.of(Stock)
        [held] = await read_held(connection, stock, [stock.identity_of("s7", "s7")])
        assert held.tombstone is not None
        plan = await connection.exec_driver_sql(f"EXPLAIN {held_statement(stock)}", {"keys": '[{"id": "s7"}]'})
        assert "tombstone_identity" in " ".join(plan.scalars())
