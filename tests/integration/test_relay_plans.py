"""The relay's hot queries use an index, however much of the log is retained and whatever the planner knows of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from outbox.cursor import Carries, Cursor, SlotGroup
from outbox.log_reader import FIRST, WINDOW_PAGES, delta, delta_parameters, page, page_parameters, read_batch
from outbox.snapshot import Snapshot
from tests.integration.relay_steps import connect, make_primary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.settings import Settings

RETAINED = 200_000
SLOTS = tuple(range(16))
# A thousand a transaction, as a backfill writes them, then single ones.
FILL = """
    DO $$ BEGIN
        FOR batch IN 1..190 LOOP
            INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
            SELECT n % 16, 'Account', '["a' || n || '"]', 'a' || n, 2, batch, false FROM generate_series(1, 1000) n;
            COMMIT;
        END LOOP;
        FOR single IN 1..10000 LOOP
            INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
            VALUES (single % 16, 'Account', '["a"]', 'a', 2, single, false);
            COMMIT;
        END LOOP;
    END $$
"""


@pytest.fixture(params=["known to the planner", "never analyzed"])
async def log(engine: AsyncEngine, settings: Settings, request: pytest.FixtureRequest) -> AsyncEngine:
    await make_primary(engine)
    async with await connect(settings) as session:
        await session.execute("ALTER TABLE crossfeed.outbox_1 SET (autovacuum_enabled = false)")
        await session.execute(FILL)
        if request.param == "known to the planner":
            await session.execute("ANALYZE crossfeed.outbox")
    return engine


async def explain(connection: AsyncConnection, sql: str, parameters: dict[str, Any]) -> dict[str, Any]:
    result = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", parameters)
    plan = result.scalar_one()
    top: dict[str, Any] = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return top


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def on_log(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes that read the log, but for those of partitions that are empty: any plan is good for them."""
    reading = [node for node in nodes(plan) if node.get("Relation Name", "").startswith("outbox")]
    return [node for node in reading if node["Relation Name"] == "outbox_1" or looked_at_by(node)]


def looked_at_by(node: dict[str, Any]) -> int:
    rows: int = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return rows


def looked_at(plan: dict[str, Any]) -> int:
    """How many rows of the log were fetched, the ones thrown away included."""
    return sum(map(looked_at_by, on_log(plan)))


async def test_the_hot_queries_never_scan_the_log(log: AsyncEngine) -> None:
    async with log.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        result = await connection.exec_driver_sql(
            "SELECT pg_current_snapshot()::text, min(xid::text::bigint), max(xid::text::bigint) FROM crossfeed.outbox"
        )
        text, first, last = tuple(result.one())
        now = Snapshot.parse(text)
        cursors = {
            "nothing is new": now,
            "ten are new": Snapshot(last - 9, last - 9, ()),
            "ten, and one transaction that was open long": Snapshot(first, last - 9, (first + 5, last - 500)),
            "everything is new": Snapshot(first, first, ()),
        }
        figures = {}
        for name, seen in cursors.items():
            group = SlotGroup(SLOTS, Cursor(seen))
            plan = await explain(connection, delta(Carries.STATES), delta_parameters(group, 501))
            assert {node["Node Type"] for node in on_log(plan)} <= {"Index Scan", "Bitmap Heap Scan"}, name
            figures[name] = looked_at(plan)
        assert figures["nothing is new"] == 0
        assert figures["ten are new"] == 10
        assert figures["ten, and one transaction that was open long"] <= 10 + 1001
        assert figures["everything is new"] <= 502
        await pages(connection, first, now)


async def pages(connection: AsyncConnection, first: int, now: Snapshot) -> None:
    behind = SlotGroup(SLOTS, Cursor(Snapshot(first, now.xmax - 5000, (first + 5,)), now, RETAINED - 5001))
    until = behind.cursor.position + 501 * WINDOW_PAGES
    plan = await explain(connection, page(Carries.STATES), page_parameters(behind, behind.cursor, until, 501))
    assert {node["Node Type"] for node in on_log(plan)} <= {"Index Scan", "Bitmap Heap Scan"}
    assert looked_at(plan) <= 501 * WINDOW_PAGES
    plan = await explain(connection, FIRST, delta_parameters(behind, 0))
    assert "Seq Scan" not in {node["Node Type"] for node in on_log(plan)}
    assert looked_at(plan) < 7000
    batch = await read_batch(connection, SlotGroup(SLOTS, Cursor(behind.cursor.seen)), 500)
    assert len(batch.messages) == 500
    assert batch.messages[0].seq == 5001  # of the transaction that was open: the sixth of a thousand each
