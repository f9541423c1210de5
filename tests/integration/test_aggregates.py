"""Aggregates with tables below their root: what users' keys and triggers may do, and what is refused."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from psycopg import errors as pg
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from core.children import ChildTable
from core.cosmos.client import open_cosmos
from core.entity import Entity
from core.errors import ConcurrencyError, MappingError
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase
from core.postgres import capture
from core.postgres.fit import check_fit
from core.postgres.held import _statement as held_statement
from core.postgres.held import read_held
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from outbox.relay import Relay
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import MemorySink, connect, letters, logged, make_primary, run, versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


class Line(BaseModel):
    item: str = ""


class Order(Entity):
    lines: list[Line] = Field(default_factory=list)


class Stock(Entity):
    sold: int = 0


def orders(foreign_key: str = "NO ACTION") -> Mappings:
    """The mappings of orders with lines, and of the stock that they sell."""
    metadata = sa.MetaData()
    key = sa.ForeignKey("orders.id", ondelete=foreign_key, onupdate=foreign_key)
    lines = sa.Table(
        "order_lines",
        metadata,
        sa.Column("order_id", sa.Text, key, primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True),
        sa.Column("item", sa.Text, nullable=False),
    )
    root = sa.Table("orders", metadata, sa.Column("id", sa.Text, primary_key=True))
    children = [ChildTable("lines", lines, parent=("order_id",), position="line")]
    stock = sa.Table(
        "stock", metadata, sa.Column("id", sa.Text, primary_key=True), sa.Column("sold", sa.Integer, nullable=False)
    )
    return Mappings(
        [
            EntityMapping(Order, table=root, container="Orders", partition_key="/id", children=children),
            EntityMapping(Stock, table=stock, container="Stock", partition_key="/id"),
        ]
    )


MAPPED = orders()


async def install(engine: AsyncEngine, mapped: Mappings) -> None:
    async with engine.begin() as connection:
        for mapping in mapped:
            await connection.run_sync(mapping.table.metadata.create_all)
            await connection.run_sync(capture.install, mapping)


@pytest.fixture
async def installed(engine: AsyncEngine) -> AsyncEngine:
    await install(engine, MAPPED)
    return engine


@pytest.fixture
async def shop(installed: AsyncEngine) -> AsyncEngine:
    """Postgres primary, one order with one line, written by the repository."""
    await make_primary(installed)
    async with PostgresUnitOfWork(installed, MAPPED) as work:
        await work[Order].add(Order(id="o", lines=[Line(item="old")]))
        await work.commit()
    return installed


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[CosmosStore]:
    async with open_cosmos(settings) as opened:
        await opened.provision(MAPPED)
        yield opened


async def lines(engine: AsyncEngine) -> list[tuple[str, str]]:
    async with engine.connect() as connection:
        found = await connection.execute(sa.text("SELECT order_id, item FROM order_lines ORDER BY 1, line"))
        return [(row.order_id, row.item) for row in found]


SELL = (
    """CREATE FUNCTION sell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN UPDATE public.stock SET sold = sold + 1 WHERE id = NEW.item; RETURN NULL; END $$""",
    "CREATE TRIGGER sell AFTER INSERT ON order_lines FOR EACH ROW EXECUTE FUNCTION sell()",
)


# -- keys


@pytest.mark.parametrize("foreign_key", ["NO ACTION", "RESTRICT", "CASCADE"])
async def test_an_aggregate_is_deleted_and_moved_whole_whatever_its_foreign_key_does(
    engine: AsyncEngine, foreign_key: str
) -> None:
    mapped = orders(foreign_key)
    await install(engine, mapped)
    await make_primary(engine)
    order = Order(id="o", lines=[Line(item="old")])
    async with PostgresUnitOfWork(engine, mapped) as work:
        await work[Order].add(order)
        await work.commit()
    async with PostgresUnitOfWork(engine, mapped) as work:
        order.id = "p"
        await work[Order].update(order)
        order.lines = [Line(item="new")]
        await work[Order].update(order)
        await work.commit()
    assert await lines(engine) == [("p", "new")]
    async with PostgresUnitOfWork(engine, mapped) as work:
        await work[Order].delete(order)
        await work.commit()
    assert await versions(engine, "orders") == {}
    assert await lines(engine) == []


async def test_an_aggregate_written_by_its_repository_is_one_message(shop: AsyncEngine) -> None:
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        order = await work[Order].get_by_id("o")
        assert order is not None
        order.lines = [Line(item="new"), Line(item="newer")]
        await work[Order].update(order)
        await work.commit()
    assert [(item.id, item.version) for item in await logged(shop)] == [("o", 1), ("o", 2)]
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        await work[Order].delete(order)
        await work.commit()
    assert [(item.version, item.deleted) for item in (await logged(shop))[2:]] == [(3, True)]


async def test_a_refused_write_leaves_the_lines_alone(shop: AsyncEngine) -> None:
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        order = await work[Order].get_by_id("o")
    assert order is not None
    await run(shop, "UPDATE order_lines SET item = 'theirs'")
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        with pytest.raises(ConcurrencyError):
            await work[Order].delete(order)
        with pytest.raises(ConcurrencyError):
            await work[Order].update(order)
        await work.commit()
    assert await lines(shop) == [("o", "theirs")]


async def test_two_writers_of_one_aggregates_lines_do_not_lock_each_other_out(
    shop: AsyncEngine, settings: Settings
) -> None:
    sessions = [await connect(settings) for _ in range(4)]

    async def write(number: int) -> None:
        for n in range(25):
            await sessions[number].execute(f"INSERT INTO order_lines VALUES ('o', {number * 100 + n + 1}, 'x')")

    await asyncio.gather(*(write(number) for number in range(4)))
    for session in sessions:
        await session.close()
    assert await versions(shop, "orders") == {"o": 101}


async def test_the_mirror_deletes_an_aggregate_with_its_lines(installed: AsyncEngine, store: CosmosStore) -> None:
    await open_phase(installed, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    steps = Steps(installed, store, MAPPED, MAPPED.of(Order))
    await steps.add(Order(id="o", lines=[Line(item="x")]))
    await steps.apply(steps.history[-1:])
    older = steps.history[-1:]
    await steps.delete("o")
    outcome = await steps.apply(steps.history[-1:])
    assert (outcome.buried, outcome.dead_lettered) == (1, 0)
    assert (await versions(installed, "orders"), await lines(installed)) == ({}, [])
    await steps.apply(older)
    assert await lines(installed) == []


async def test_a_line_of_an_order_that_is_not_committed_yet_is_refused(shop: AsyncEngine, settings: Settings) -> None:
    one, two = await connect(settings), await connect(settings)
    await one.execute("BEGIN")
    await one.execute("INSERT INTO orders VALUES ('new')")
    with pytest.raises(pg.ForeignKeyViolation):
        await two.execute("INSERT INTO order_lines VALUES ('new', 0, 'x')")
    await one.execute("COMMIT")
    await one.close()
    await two.close()


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


# -- triggers of users


async def test_a_trigger_on_a_line_writes_other_aggregates_as_anybody_does(
    installed: AsyncEngine, settings: Settings
) -> None:
    await run(installed, *SELL)
    await make_primary(installed)
    await run(installed, "INSERT INTO stock VALUES ('apple', 0)", "INSERT INTO orders VALUES ('other')")
    await run(
        installed,
        "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.order_lines VALUES ('other', NEW.line, NEW.item); RETURN NULL; END $$",
        "CREATE TRIGGER copy AFTER INSERT ON order_lines FOR EACH ROW WHEN (NEW.order_id = 'o')"
        " EXECUTE FUNCTION copy()",
    )
    sink = MemorySink()
    relay = Relay(settings, MAPPED, installed, sink)
    await relay.drain()
    async with PostgresUnitOfWork(installed, MAPPED) as work:
        await work[Order].add(Order(id="o", lines=[Line(item="apple")]))
        await work.commit()
    await relay.drain()
    held = {identity.id: item.document for identity, item in sink.states.items()}
    assert held["apple"]["sold"] == 2
    assert held["other"]["lines"] == [{"item": "apple"}]


async def test_an_entity_stays_writable_when_a_trigger_on_its_lines_writes_its_root(shop: AsyncEngine) -> None:
    await run(
        shop,
        "ALTER TABLE orders ADD total int",
        "CREATE FUNCTION total() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE orders SET total = coalesce(total, 0) + 1 WHERE id = NEW.order_id; RETURN NULL; END $$",
        "CREATE TRIGGER total AFTER INSERT ON order_lines FOR EACH ROW EXECUTE FUNCTION total()",
    )
    order = Order(id="p", lines=[Line(item="x")])
    async with PostgresUnitOfWork(shop, MAPPED) as work:
        await work[Order].add(order)
        await work[Order].update(order)
        await work[Order].delete(order)
        await work.commit()


async def test_a_trigger_on_the_root_runs_as_the_writer_of_the_line(shop: AsyncEngine) -> None:
    await run(
        shop,
        "CREATE TABLE audit_log (who text)",
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO audit_log VALUES (current_user); RETURN NULL; END $$",
        "CREATE TRIGGER audit AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION audit()",
        "CREATE ROLE clerk_of_this_shop",
    )
    try:
        await run(shop, "GRANT SELECT, INSERT, UPDATE ON orders, order_lines, audit_log TO clerk_of_this_shop")
        async with shop.begin() as connection:
            await connection.exec_driver_sql("SET LOCAL ROLE clerk_of_this_shop")
            await connection.exec_driver_sql("INSERT INTO order_lines VALUES ('o', 1, 'x')")
            found = await connection.exec_driver_sql("SELECT who FROM audit_log")
            assert found.scalars().all() == ["clerk_of_this_shop"]
        assert await versions(shop, "orders") == {"o": 2}
    finally:
        await run(shop, "DROP OWNED BY clerk_of_this_shop", "DROP ROLE clerk_of_this_shop")


async def test_triggers_that_do_not_ask_for_the_mirror_are_named_at_start(installed: AsyncEngine) -> None:
    await run(installed, *SELL)
    async with installed.begin() as connection:
        with capture_logs() as logs:
            await check_fit(connection, MAPPED)
        assert [(entry["event"], entry["trigger"]) for entry in logs] == [("fit.trigger_runs_in_mirror", "sell")]
        await connection.exec_driver_sql(
            "CREATE OR REPLACE TRIGGER sell AFTER INSERT ON order_lines FOR EACH ROW"
            " WHEN (current_setting('crossfeed.mirroring', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION sell()"
        )
        with capture_logs() as logs:
            await check_fit(connection, MAPPED)
        assert logs == []


# -- the functions in the database


async def test_no_function_is_named_by_a_number_that_a_restore_changes(shop: AsyncEngine) -> None:
    async with shop.connect() as connection:
        found = await connection.exec_driver_sql("SELECT proname FROM pg_proc WHERE proname ~ '^child_'")
        assert sorted(found.scalars()) == ["child_delete_order_1", "child_insert_order_1", "child_update_order_1"]
    assert await letters(shop) == []
