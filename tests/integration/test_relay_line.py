"""The connection that a relay keeps prepares nothing behind a pooler, and loses nothing when it is cut or outdated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from core.postgres.engine import fetch, open_engine
from outbox import line as lines
from outbox.line import Line
from outbox.relay import Relay
from outbox.slot_change import change_slots
from tests.integration.log_steps import begin_small, upkeep
from tests.integration.relay_steps import MemorySink, make_primary, run, until
from tests.integration.test_relay_flights import PUT, SAY, EventTower, relaying
from tests.pgbouncer import PgBouncerMissingError, pgbouncer

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings

PREPARED = "SELECT count(*) FROM pg_prepared_statements"
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'crossfeed'
"""


def line_of(engine: AsyncEngine, size: int = 10) -> Line:
    return Line(engine, size, asyncio.get_running_loop().time)


async def number(line: Line, sql: str) -> int:
    async with line.use() as connection:
        [(found,)] = await fetch(connection, sql, {})
    return int(found)


async def test_what_asks_for_it_is_prepared_on_a_connection_to_postgres_and_nothing_else(engine: AsyncEngine) -> None:
    line = line_of(engine)
    assert await number(line, "SELECT 1") == 1
    [before] = [await number(line, PREPARED) for _ in range(2)][1:]
    assert before >= 2
    async with line.use() as connection:
        for _ in range(10):
            await connection.exec_driver_sql("SELECT 2")
    assert await number(line, PREPARED) == before
    await line.close()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_nothing_is_prepared_behind_a_pooler_by_a_relay_that_works(
    settings: Settings, mappings: Mappings
) -> None:
    try:
        with pgbouncer(settings.require_postgres(), pool_size=1) as dsn:
            pooled = settings.model_copy(update={"postgres_dsn": SecretStr(dsn), "relay_poll_max_ms": 5})
            async with open_engine(pooled) as engine:
                await make_primary(engine)
                sink = MemorySink()
                async with relaying(Relay(pooled, mappings, engine, sink)):
                    for name in "abc":
                        await run(engine, PUT.format(name))
                    await until(lambda: len(sink.states) == 3)
                    assert await number(line_of(engine, 1), PREPARED) == 0  # of the one session that all share
    except PgBouncerMissingError as error:
        pytest.skip(str(error))


async def test_of_a_small_pool_no_connection_is_kept(engine: AsyncEngine) -> None:
    line = line_of(engine, lines.LEAST_POOL - 1)
    assert await number(line, "SELECT 1") == 1
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await number(line, PREPARED) == 0


async def test_a_statement_whose_result_has_changed_its_type_fails_once_and_is_planned_anew(
    engine: AsyncEngine,
) -> None:
    await run(engine, "CREATE TABLE changing AS SELECT 1 AS n")
    line = line_of(engine)
    assert await number(line, "SELECT n FROM changing") == 1
    await run(engine, "ALTER TABLE changing ALTER n TYPE bigint")
    with pytest.raises(DBAPIError, match="cached plan"):
        await number(line, "SELECT n FROM changing")
    assert await number(line, "SELECT n FROM changing") == 1
    await line.close()


async def test_a_use_that_is_cancelled_in_the_middle_of_a_statement_ends_the_connection(engine: AsyncEngine) -> None:
    line = line_of(engine)
    before = await number(line, "SELECT pg_backend_pid()")
    using = asyncio.ensure_future(number(line, "SELECT 1 FROM pg_sleep(60)"))
    await asyncio.sleep(0.1)
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert await number(line, "SELECT pg_backend_pid()") != before
    await line.close()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_relay_whose_connections_are_cut_again_and_again_loses_nothing(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink, count = MemorySink(), 30
    async with open_engine(settings) as own:
        relay = Relay(settings.model_copy(update={"relay_poll_max_ms": 5}), mappings, own, sink)
        async with relaying(relay):
            for n in range(count):
                await run(engine, PUT.format(f"a{n}"))
                if n % 10 == 5:
                    await run(engine, CUT)
            await until(lambda: len(sink.states) == count)
            assert relay.stats.retries > 0
    assert await Relay(settings, mappings, engine, sink).drain() == 0


async def test_a_relay_goes_on_over_tables_functions_and_partitions_that_change_under_its_plans(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = MemorySink()
    quick, events = settings.model_copy(update={"relay_poll_max_ms": 5}), EventTower()
    async with relaying(Relay(quick, mappings, engine, sink, events=events)):
        await run(engine, PUT.format("a"))
        await until(lambda: len(sink.states) == 1)
        await run(engine, "ALTER TABLE accounts ADD COLUMN new text", PUT.format("b"))
        await until(lambda: len(sink.states) == 2)
        await begin_small(engine)
        await upkeep(engine, settings)
        await change_slots(engine, 3)
        await run(engine, PUT.format("a+b+c+d"), SAY.format("a", 1))
        await until(lambda: len(sink.states) == 4 and len(sink.history) == 6 and events.written == ["a-1"])
    assert await Relay(settings, mappings, engine, sink).drain() == 0
