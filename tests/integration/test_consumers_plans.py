"""What the consumers ask Postgres for every page uses an index, whatever the planner knows of tables that grew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from changefeed.inbox import PURGE, READ_MEMORY
from changefeed.inbox_chains import DUE_CHAINS, READ_CHAIN
from tests.integration.relay_steps import run
from tests.integration.test_relay_plans import explain, nodes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

FILL = (
    """
    INSERT INTO crossfeed.inbox (handler, subject, event_id, sequence, ts)
    SELECT 'one', 'Account/' || mod(n, 5000), 'e' || n, n, n FROM generate_series(1, 50000) n
    """,
    "INSERT INTO crossfeed.inbox_mark SELECT 'one', 'Account/' || n, n, n FROM generate_series(1, 20000) n",
    """
    INSERT INTO crossfeed.inbox_parked (handler, subject, event_id, sequence, ts, event, reason, attempts, retry_at)
    SELECT 'one', 'Account/' || mod(n, 2000), 'p' || n, n, n, '{}', '', 1, 'infinity' FROM generate_series(1, 20000) n
    """,
)
NAMES = {"handlers": ["one"] * 100, "subjects": ["Account/7"] * 100, "event_ids": [f"e{n}" for n in range(100)]}
QUERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "the memory of a page": (READ_MEMORY, NAMES),
    "a chain": (READ_CHAIN, {"handler": "one", "subject": "Account/7", "longest_s": 300.0}),
    "what is due": (DUE_CHAINS, {"handlers": ["one"], "longest_s": 300.0, "limit": 20}),
}
PURGES = {"a purge that finds nothing": (PURGE, {"keep_s": 1000.0})}  # one a minute may wait for the first ANALYZE


@pytest.mark.parametrize("analyzed", [True, False])
async def test_no_query_reads_a_table_that_has_grown(engine: AsyncEngine, *, analyzed: bool) -> None:
    tables = ("inbox", "inbox_mark", "inbox_parked")
    await run(engine, *(f"ALTER TABLE crossfeed.{name} SET (autovacuum_enabled = false)" for name in tables), *FILL)
    if analyzed:
        await run(engine, *(f"ANALYZE crossfeed.{name}" for name in tables))
    for what, (sql, parameters) in (QUERIES | PURGES if analyzed else QUERIES).items():
        async with engine.begin() as connection:
            plan = await explain(connection, sql, parameters)
        read = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
        assert read == [], what
