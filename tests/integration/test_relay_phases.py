"""In which phase the relay sends, and what it leaves alone in the others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from core.phases import Phase
from outbox.cursor import advance, load_groups
from outbox.log_reader import read_batch
from outbox.relay import Relay
from tests.integration.relay_steps import MemorySink, make_primary, run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings

DRAINING = "UPDATE crossfeed.phase SET state = 'draining', switch_id = gen_random_uuid()"


async def cursors(engine: AsyncEngine) -> list[tuple[str, ...]]:
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT DISTINCT seen::text, target::text, at::text FROM crossfeed.slot"
        )
        return sorted(tuple(row) for row in result)


async def test_leftover_messages_are_neither_sent_nor_skipped_while_cosmos_is_primary(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    sink = MemorySink()
    relay = Relay(settings.model_copy(update={"relay_page_size": 2}), mappings, engine, sink)
    await relay.run_once()
    await make_primary(engine)
    await run(engine, *[f"INSERT INTO accounts (id) VALUES ('a{number}')" for number in range(5)])
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    before = await cursors(engine)
    await relay.drain()
    assert sink.history == []
    assert await cursors(engine) == before
    await make_primary(engine)
    await relay.drain()
    assert len(sink.history) == 5
    assert {item.stamp.epoch for item in sink.history} == {2}  # their own stamps, not that of the epoch of now


async def test_a_state_is_sent_while_writers_are_drained_and_the_cursor_passes_the_barrier(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')", DRAINING)
    async with engine.connect() as connection:
        barrier = (await connection.exec_driver_sql("SELECT pg_current_snapshot()::text")).scalar_one()
    sink = MemorySink()
    relay = Relay(settings, mappings, engine, sink)
    await relay.drain()
    await run(engine, "SELECT pg_current_xact_id()")
    await relay.drain()
    assert len(sink.history) == 1
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT bool_and(pg_snapshot_xmax(seen) > pg_snapshot_xmax(%(barrier)s::pg_snapshot)) "
            "FROM crossfeed.slot WHERE carries = 'states'",
            {"barrier": barrier},
        )
        assert result.scalar_one()


async def test_in_postgres_only_the_cursor_advances_and_nothing_is_sent(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await make_primary(engine, Phase.POSTGRES_ONLY)
    await run(engine, *[f"INSERT INTO accounts (id) VALUES ('a{number}')" for number in range(5)])
    sink = MemorySink()
    relay = Relay(settings.model_copy(update={"relay_page_size": 2}), mappings, engine, sink)
    await relay.drain()
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('new')")
    await relay.drain()
    assert [item.identity.id for item in sink.history] == ["new"]


async def test_a_process_pinned_to_another_phase_sends_nothing(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    sink = MemorySink()
    await Relay(settings.model_copy(update={"phase": Phase.POSTGRES_ONLY}), mappings, engine, sink).drain()
    assert sink.history == []
    await Relay(settings.model_copy(update={"phase": Phase.DUAL_WRITE_POSTGRES_READ}), mappings, engine, sink).drain()
    assert len(sink.history) == 1


async def test_an_idle_relay_writes_nothing_whatever_other_transactions_do(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    relay = Relay(settings, mappings, engine, sink := MemorySink())
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    before = await cursors(engine)
    for _ in range(3):
        await run(engine, "CREATE TABLE IF NOT EXISTS other ()", "SELECT pg_current_xact_id()")
        await asyncio.sleep(0.3)
    assert await cursors(engine) == before
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")

    async def arrived() -> bool:
        return bool(sink.history)

    await until(arrived)
    stop.set()
    await running


async def test_a_cursor_is_moved_with_the_current_tokens_of_all_its_slots_or_not_at_all(engine: AsyncEngine) -> None:
    await make_primary(engine)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        group = (await load_groups(connection))[0]
        batch = await read_batch(connection, group, 100)
        stale = (*group.tokens[:-1], group.tokens[-1] - 1)
        assert not await advance(connection, replace(group, tokens=stale), batch.next)
        assert not await advance(connection, replace(group, server="another"), batch.next)
        assert (await load_groups(connection))[0] == group
        assert await advance(connection, group, batch.next)
        assert (await load_groups(connection))[0].cursor == batch.next
