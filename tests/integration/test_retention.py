"""A partition of the log goes when every cursor has passed all of it, and not a message sooner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from outbox.status import read_status
from tests.integration.log_steps import (
    SIZE,
    begin_small,
    count,
    events,
    partitions,
    pass_all,
    rows,
    states,
    tables,
    upkeep,
)
from tests.integration.relay_steps import connect, make_primary, run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

BEHIND = """
    UPDATE crossfeed.slot SET seen = (SELECT pg_current_snapshot()) WHERE slot <> (
        SELECT min(slot) FROM crossfeed.outbox WHERE event_id IS {} NULL)
"""


COVERED = """
    SELECT range_agg(int8range(from_seq, until_seq)) @> (SELECT int8range(1, last_value + 1) FROM crossfeed.outbox_seq)
    FROM crossfeed.outbox_partition
"""
STRONG = """
    SELECT relation::regclass::text FROM pg_locks WHERE mode = 'AccessExclusiveLock'
        AND relation::regclass::text LIKE 'crossfeed.%' AND database = (
            SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
async def log(engine: AsyncEngine, settings: Settings) -> AsyncEngine:
    """A log whose only full partition that holds something is the third of the schema's own, all of it sent."""
    await make_primary(engine)
    await begin_small(engine)
    await upkeep(engine, settings)  # drops the first two, which are empty
    await run(engine, states(SIZE // 2), events(SIZE // 2 + 1))
    await pass_all(engine)
    return engine


async def drop(engine: AsyncEngine, keep_s: float = 0) -> str | None:
    async with engine.begin() as connection:
        [(outcome,)] = await rows(connection, f"SELECT crossfeed.drop_partition({keep_s})")
    return None if outcome is None else str(outcome)


async def test_what_every_cursor_has_passed_is_dropped(log: AsyncEngine) -> None:
    assert await drop(log) == "dropped"
    assert "crossfeed.outbox_2000001" not in await tables(log)
    assert await count(log, "crossfeed.outbox") == 1
    assert await drop(log) is None


@pytest.mark.parametrize("kind", ["", "NOT"], ids=["states", "events"])
async def test_one_slot_that_is_behind_holds_the_partition_back_and_raises_the_alarm(
    log: AsyncEngine, settings: Settings, kind: str
) -> None:
    await run(log, "UPDATE crossfeed.slot SET seen = '3:3:'", BEHIND.format(kind))
    with capture_logs() as logs:
        assert (await upkeep(log, settings)).is_held
        assert (await upkeep(log, settings)).is_held
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["outbox.retention_held"]
    async with log.connect() as connection:
        status = await read_status(connection)
    assert status.retention_held_s is not None
    assert 0 <= status.retention_held_s < 60
    [behind] = status.held_by
    assert (behind < 16) == (not kind)
    await pass_all(log)
    assert (await upkeep(log, settings)).dropped == 1
    async with log.connect() as connection:
        assert (await read_status(connection)).retention_held_s is None


async def test_a_slot_with_nothing_in_the_partition_holds_nothing_back(log: AsyncEngine) -> None:
    await run(
        log, "DELETE FROM crossfeed.outbox WHERE slot = 3", "UPDATE crossfeed.slot SET seen = '3:3:' WHERE slot = 3"
    )
    assert await drop(log) == "dropped"


async def test_what_is_kept_for_a_replay_is_not_dropped(log: AsyncEngine) -> None:
    assert await drop(log, keep_s=3600) is None
    await run(log, "UPDATE crossfeed.outbox SET at = at - interval '1 hour'")
    assert await drop(log, keep_s=3600) == "dropped"


@pytest.mark.parametrize("prepared", [False, True])
async def test_a_transaction_with_a_message_in_it_keeps_a_partition_until_the_message_was_sent(
    engine: AsyncEngine, settings: Settings, prepared: bool
) -> None:
    await make_primary(engine)
    await begin_small(engine)
    await upkeep(engine, settings)
    async with await connect(settings) as late:
        await late.execute("BEGIN")
        await late.execute(states(1))
        if prepared:
            await late.execute("PREPARE TRANSACTION 'late'")
        await run(engine, states(SIZE))
        await pass_all(engine)
        assert await drop(engine) == "busy"
        await late.execute("COMMIT PREPARED 'late'" if prepared else "COMMIT")
    assert await drop(engine) == "newly held"
    await pass_all(engine)
    assert await drop(engine) == "dropped"


async def test_a_transaction_that_commits_while_its_partition_is_being_locked_keeps_it(
    engine: AsyncEngine, settings: Settings
) -> None:
    await make_primary(engine)
    await begin_small(engine)
    await upkeep(engine, settings)
    async with await connect(settings) as late:
        await late.execute("BEGIN")
        await late.execute(states(1))
        await run(engine, states(SIZE))
        await pass_all(engine)
        dropping = asyncio.ensure_future(drop(engine))

        async def waits() -> bool:
            async with engine.connect() as connection:
                return bool(await rows(connection, "SELECT 1 FROM pg_locks WHERE NOT granted")) or dropping.done()

        await until(waits)
        await late.execute("COMMIT")
    assert await dropping == "busy"
    assert await count(engine, "crossfeed.outbox") == SIZE + 1


async def test_messages_that_were_rolled_back_hold_nothing_back(engine: AsyncEngine, settings: Settings) -> None:
    await make_primary(engine)
    await begin_small(engine)
    await upkeep(engine, settings)
    async with await connect(settings) as session:
        await session.execute(f"BEGIN; {states(SIZE // 2)}; ROLLBACK")
        await session.execute(f"BEGIN; SAVEPOINT s; {states(SIZE)}; ROLLBACK TO s")
        assert await drop(engine) == "dropped"
        await session.execute("COMMIT")


async def test_under_a_load_that_uses_the_default_partition_all_the_time_old_messages_still_go(
    engine: AsyncEngine, settings: Settings
) -> None:
    """More than a partition is used up between two calls, so there is never one in time."""
    await make_primary(engine)
    await begin_small(engine)
    for _ in range(10):
        await run(engine, states(3 * SIZE))
        await pass_all(engine)
        await upkeep(engine, settings)
    assert await count(engine, "crossfeed.outbox") <= SIZE
    assert len(await partitions(engine)) <= 4
    async with engine.connect() as connection:  # no number that was given out is unaccounted for
        assert await rows(connection, COVERED) == [(True,)]


async def test_a_relay_that_is_stopped_while_it_looks_after_the_partitions_blocks_no_writer(
    log: AsyncEngine, settings: Settings
) -> None:
    """Its statements commit themselves, so there is no moment at which it holds a lock and has to go on."""
    held: list[object] = []

    def look(*_: object) -> None:
        with psycopg.connect(settings.require_postgres()) as session:
            held.extend(session.execute(STRONG).fetchall())

    event.listen(log.sync_engine, "after_cursor_execute", look)
    done = await upkeep(log, settings)
    event.remove(log.sync_engine, "after_cursor_execute", look)
    assert done.dropped == 1
    assert held == []
