"""The phase row: steps between neighbours, epochs that only grow, triggers that follow, watermarks in every feed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.cosmos.feed import feed_ranges, pages
from core.domain.account import Account
from core.errors import ConflictError, MappingError, PrimaryMovedError
from core.phases import Phase
from core.postgres import capture
from core.postgres.phases import open_phase, read_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.relay_steps import connect, run
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


async def step(engine: AsyncEngine, phase: Phase) -> int:
    return (await open_phase(engine, phase, who="test", why="test")).epoch


async def test_every_step_raises_the_epoch_and_is_recorded(engine: AsyncEngine) -> None:
    epochs = [await step(engine, Phase(number)) for number in (1, 2, 3, 2, 1, 0)]
    assert epochs == [2, 3, 4, 5, 6, 7]
    async with engine.connect() as connection:
        history = (
            await connection.exec_driver_sql("SELECT epoch, phase FROM crossfeed.phase_history ORDER BY 1")
        ).all()
    assert [tuple(row) for row in history] == list(zip(range(1, 8), (0, 1, 2, 3, 2, 1, 0), strict=True))


async def test_a_step_over_a_phase_is_refused(engine: AsyncEngine) -> None:
    await step(engine, Phase.DUAL_WRITE_COSMOS_READ)
    with pytest.raises(ConflictError, match="not a neighbour"):
        await step(engine, Phase.POSTGRES_ONLY)
    async with engine.connect() as connection:
        assert (await read_phase(connection)).epoch == 2


async def test_a_fresh_installation_may_start_in_any_phase(engine: AsyncEngine) -> None:
    assert await step(engine, Phase.POSTGRES_ONLY) == 2


async def test_two_steps_at_once_go_one_after_the_other(engine: AsyncEngine) -> None:
    await step(engine, Phase.DUAL_WRITE_COSMOS_READ)
    results = await asyncio.gather(
        step(engine, Phase.DUAL_WRITE_POSTGRES_READ), step(engine, Phase.COSMOS_ONLY), return_exceptions=True
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 1
    assert sum(result == 3 for result in results) == 1


async def test_a_writer_in_flight_is_waited_for_and_captured(engine: AsyncEngine, mappings: Mappings) -> None:
    await step(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    async with PostgresUnitOfWork(engine, mappings) as work:
        await work[Account].add(Account(id="a"))
        flip = asyncio.create_task(step(engine, Phase.DUAL_WRITE_COSMOS_READ))
        await asyncio.sleep(0.3)
        assert not flip.done()
        await work.commit()
    await flip
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.outbox")).scalar_one() == 1
    with pytest.raises(PrimaryMovedError):
        async with PostgresUnitOfWork(engine, mappings) as work:
            await work[Account].add(Account(id="b"))


async def test_a_step_that_waits_in_vain_names_the_writer_and_not_its_data(
    engine: AsyncEngine, settings: Settings
) -> None:
    await step(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    idle = await connect(settings)
    await idle.execute("BEGIN")
    await idle.execute("INSERT INTO accounts (id, email) VALUES ('a', 'secret@example.org')")
    with pytest.raises(
        ConflictError, match=rf"process {idle.info.backend_pid}, \d+ s old, idle in .*VALUES"
    ) as refused:
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test", patience=0.1)
    assert "secret" not in str(refused.value)
    await idle.close()
    assert await step(engine, Phase.DUAL_WRITE_COSMOS_READ) == 3


async def test_writers_pass_a_step_that_waits(engine: AsyncEngine, settings: Settings) -> None:
    await step(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    idle, other = await connect(settings), await connect(settings)
    await idle.execute("BEGIN")
    await idle.execute("INSERT INTO accounts (id) VALUES ('a')")
    flip = asyncio.create_task(step(engine, Phase.DUAL_WRITE_COSMOS_READ))
    await asyncio.sleep(0.3)
    async with asyncio.timeout(5):
        await other.execute("INSERT INTO accounts (id) VALUES ('b')")
    assert not flip.done()
    await idle.execute("COMMIT")
    assert await flip == 3
    await idle.close()
    await other.close()


async def test_a_dropped_table_is_named_until_its_capture_is_removed(engine: AsyncEngine) -> None:
    await run(engine, "DROP TABLE user_profiles")
    with pytest.raises(MappingError, match=r"mapping UserProfile.*capture\.remove"):
        await step(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    async with engine.begin() as connection:
        await connection.run_sync(capture.remove, "UserProfile")
    assert await step(engine, Phase.DUAL_WRITE_POSTGRES_READ) == 2


async def test_a_table_whose_capture_was_removed_is_an_ordinary_table_again(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(capture.remove, "UserProfile")
        await connection.run_sync(capture.remove, "UserProfile")
    await run(engine, "DELETE FROM user_profiles", "TRUNCATE user_profiles")
    async with engine.connect() as connection:
        left = await connection.exec_driver_sql("SELECT proname FROM pg_proc WHERE proname ~ 'userprofile$'")
        assert left.all() == []


async def test_rows_are_stamped_with_the_epoch_of_the_step(engine: AsyncEngine, mappings: Mappings) -> None:
    await step(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    async with PostgresUnitOfWork(engine, mappings) as work:
        await work[Account].add(Account(id="a"))
        await work.commit()
    for phase in (Phase.POSTGRES_ONLY, Phase.DUAL_WRITE_POSTGRES_READ):
        await step(engine, phase)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE accounts SET display_name = 'x'")
        stamp = (await connection.exec_driver_sql("SELECT crossfeed_epoch, crossfeed_version FROM accounts")).one()
        await connection.exec_driver_sql("DELETE FROM accounts")
        buried = (await connection.exec_driver_sql("SELECT epoch, version FROM crossfeed.tombstone")).one()
    assert (tuple(stamp), tuple(buried)) == ((4, 2), (4, 3))


async def test_a_pinned_process_writes_in_its_phase_only(engine: AsyncEngine, mappings: Mappings) -> None:
    await step(engine, Phase.POSTGRES_ONLY)
    with pytest.raises(PrimaryMovedError, match="pinned"):
        async with PostgresUnitOfWork(engine, mappings, pin=Phase.DUAL_WRITE_POSTGRES_READ) as work:
            await work[Account].add(Account(id="a"))
    async with PostgresUnitOfWork(engine, mappings, pin=Phase.POSTGRES_ONLY) as work:
        await work[Account].add(Account(id="a"))
        await work.commit()


async def test_a_switch_writes_its_watermark_into_every_feed_range(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    row = await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    for mapping in mappings:
        container = cosmos.container(mapping)
        for feed_range in await feed_ranges(container):
            seen = [
                document["crossfeed"]
                async for page in pages(container, feed_range, None, 100)
                for document in page.documents
            ]
            assert {"kind": "watermark", "epoch": row.epoch} in [
                {key: mark[key] for key in ("kind", "epoch")} for mark in seen
            ]
