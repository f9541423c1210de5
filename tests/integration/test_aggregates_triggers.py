"""Triggers that users have on the tables of an aggregate: they write as anybody does, with the writer's rights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from core.postgres.fit import check_fit
from core.postgres.unit_of_work import PostgresUnitOfWork
from outbox.relay import Relay
from tests.integration.aggregate_steps import MAPPED, Line, Order
from tests.integration.relay_steps import MemorySink, letters, make_primary, run, versions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings


SELL = (
    """CREATE FUNCTION sell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN UPDATE public.stock SET sold = sold + 1 WHERE id = NEW.item; RETURN NULL; END $$""",
    "CREATE TRIGGER sell AFTER INSERT ON order_lines FOR EACH ROW EXECUTE FUNCTION sell()",
)


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


async def test_no_function_is_named_by_a_number_that_a_restore_changes(shop: AsyncEngine) -> None:
    async with shop.connect() as connection:
        found = await connection.exec_driver_sql("SELECT proname FROM pg_proc WHERE proname ~ '^child_'")
        assert sorted(found.scalars()) == ["child_delete_order_1", "child_insert_order_1", "child_update_order_1"]
    assert await letters(shop) == []
