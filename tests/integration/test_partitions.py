"""The log's partitions are made ahead of the writers, and no writer ever waits for one to be made or dropped."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from tests.integration.log_steps import (
    SIZE,
    START,
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


@pytest.fixture(autouse=True)
async def _small(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await begin_small(engine)


async def test_two_empty_partitions_are_always_ahead_of_the_sequence(engine: AsyncEngine, settings: Settings) -> None:
    for number in range(5):
        await upkeep(engine, settings, keep_s=3600)
        drawn = START + number * SIZE
        assert sum(first > drawn for first, _, _ in await partitions(engine)) == 2
        await run(engine, states(SIZE))
    assert await count(engine, "crossfeed.outbox_default") == 0
    ranges = await partitions(engine)
    assert all(until == first for (_, until, _), (first, _, _) in itertools.pairwise(ranges))


async def test_nothing_is_made_or_dropped_twice_by_relays_that_do_it_at_once(
    engine: AsyncEngine, settings: Settings
) -> None:
    await asyncio.gather(*(upkeep(engine, settings) for _ in range(5)))
    await run(engine, states(SIZE), states(SIZE), states(SIZE))
    await pass_all(engine)
    done = await asyncio.gather(*(upkeep(engine, settings) for _ in range(5)))
    while (again := await upkeep(engine, settings)).dropped:
        done.append(again)
    assert await tables(engine) == {"crossfeed.outbox_default"} | {
        f"crossfeed.outbox_{first}" for first, _, in_default in await partitions(engine) if not in_default
    }


async def test_a_writer_held_open_for_seconds_makes_no_other_writer_wait_for_partition_work(
    engine: AsyncEngine, settings: Settings
) -> None:
    """Full partitions that are due, empty ones that are missing, and a transaction that is in the way of both."""
    await upkeep(engine, settings)
    await run(engine, states(SIZE), states(SIZE))
    await pass_all(engine)
    written = 0
    stop = asyncio.Event()

    async def write() -> None:
        nonlocal written
        async with await connect(settings) as session:
            await session.execute("SET lock_timeout = '100ms'")  # fails the write that waits longer
            while not stop.is_set():
                await session.execute("INSERT INTO accounts (id) VALUES (gen_random_uuid()::text)")
                written += 1
                await asyncio.sleep(0.002)

    async with await connect(settings) as held:
        await held.execute("BEGIN")
        await held.execute("INSERT INTO accounts (id) VALUES ('held')")
        before = await tables(engine)
        writers = [asyncio.ensure_future(write()) for _ in range(4)]
        for _ in range(8):
            await upkeep(engine, settings)
            for _ in range(2):  # a statement under way must not find itself in a partition attached since it began
                await run(engine, "SELECT setval('crossfeed.outbox_seq', nextval('crossfeed.outbox_seq') + 200)")
                await asyncio.sleep(0.1)
        now = await tables(engine)
        assert before <= now  # it is in the way of dropping
        assert len(now - before) >= 3
        await held.execute("COMMIT")
    await pass_all(engine)

    async def is_dropped() -> bool:
        return (await upkeep(engine, settings)).dropped > 0

    await until(is_dropped)
    stop.set()
    await asyncio.gather(*writers)
    assert written > 300


async def test_a_statement_that_writes_more_than_is_ahead_does_not_fail_on_a_partition_made_meanwhile(
    engine: AsyncEngine, settings: Settings
) -> None:
    """It knows the partitions that there were when it began, and takes the default one for the rest."""
    await upkeep(engine, settings)
    slow = states(4 * SIZE).replace("AS n\n", "AS n WHERE n > 1 OR pg_sleep(1.6) IS NOT NULL\n")

    async def write() -> None:
        async with await connect(settings) as session:
            await session.execute(slow)

    writing = asyncio.ensure_future(write())
    await asyncio.sleep(1.2)
    assert (await upkeep(engine, settings)).made == 0
    await run(engine, "SELECT setval('crossfeed.outbox_seq', nextval('crossfeed.outbox_seq') + 1500)")
    assert (await upkeep(engine, settings)).made == 0
    await writing
    assert (await upkeep(engine, settings)).made > 0
    assert await count(engine, "crossfeed.outbox") == 4 * SIZE


async def test_what_went_to_the_default_partition_is_a_range_of_its_own_and_is_emptied_when_it_was_sent(
    engine: AsyncEngine, settings: Settings
) -> None:
    await run(engine, states(2 * SIZE), events(SIZE))
    assert await count(engine, "crossfeed.outbox_default") == 2 * SIZE
    await upkeep(engine, settings, keep_s=3600)
    overflow = (START + SIZE + 1, START + 3 * SIZE + SIZE // 4 + 1, True)
    assert overflow in await partitions(engine)
    await run(engine, states(SIZE))
    assert await count(engine, "crossfeed.outbox_default") == 2 * SIZE + SIZE // 4
    await pass_all(engine, "states")
    assert (await upkeep(engine, settings)).is_held
    assert await count(engine, "crossfeed.outbox_default") == 2 * SIZE + SIZE // 4
    await pass_all(engine)
    await upkeep(engine, settings)
    assert await count(engine, "crossfeed.outbox_default") == 0
    assert await count(engine, "crossfeed.outbox") == SIZE - SIZE // 4
    assert overflow not in await partitions(engine)


async def test_a_relay_needs_no_right_to_create_or_drop_anything(engine: AsyncEngine, settings: Settings) -> None:
    role = f"relay_{settings.cosmos_database}"
    await run(
        engine,
        f"CREATE ROLE {role}",
        f"GRANT USAGE ON SCHEMA crossfeed TO {role}",
        states(SIZE),
    )
    await pass_all(engine)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            assert await rows(connection, f"SELECT crossfeed.make_partitions({SIZE}, 2)") == [(2,)]
            assert await rows(connection, "SELECT crossfeed.drop_partition(0)") == [("dropped",)]
            assert await rows(connection, "SELECT crossfeed.backlog()") == [(0,)]
    finally:
        await run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
