"""Writers of Cosmos DB: none has a lease that a flip does not know of, and no clock of Postgres ends one early."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from core.errors import ConflictError
from core.phases import PhaseRow, PhaseState
from core.postgres.phases import lock_phase
from core.postgres.switching import begin_switch, cancel_switch, flip
from core.postgres.writers import know_the_writers, unexpired_writers, wait_for_writers
from tests.integration.relay_steps import run
from tests.integration.switching_steps import (
    COSMOS,
    POSTGRES,
    drain,
    nothing,
    release,
    renew,
    renew_within,
    start_in,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.postgres.writers import Writer


class Clock:
    """Seconds that pass by twos, each time they are asked for."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 2
        return self.now


async def writers(engine: AsyncEngine) -> list[Writer]:
    async with engine.connect() as connection:
        return await unexpired_writers(connection)


async def test_a_lease_is_granted_while_cosmos_is_primary_and_nobody_drains(engine: AsyncEngine) -> None:
    assert await renew(engine) == (0, 1, "steady", True)
    await start_in(engine, COSMOS)
    assert await renew(engine) == (1, 2, "steady", True)
    switch = await drain(engine, POSTGRES)
    assert await renew(engine) == (1, 2, "draining", False)
    await cancel_switch(engine, switch.id, why="test")
    assert await renew(engine) == (1, 2, "steady", True)
    await start_in(engine, POSTGRES)
    assert await renew(engine) == (2, 3, "steady", False)


async def test_a_renewal_that_is_refused_leaves_the_lease_to_the_writes_in_flight(engine: AsyncEngine) -> None:
    me = uuid.uuid4()
    await start_in(engine, COSMOS)
    await renew(engine, me)
    switch = await drain(engine, POSTGRES)
    assert not (await renew(engine, me))[3]
    [writer] = await writers(engine)
    assert 5 < writer.left_s <= 10
    with pytest.raises(ConflictError, match="writer of Cosmos DB has not ended"):
        await flip(engine, switch.id, nothing)
    with pytest.raises(ConflictError, match=r"do not end: a writer \(\d+\.\d s left\)"):
        await wait_for_writers(engine, switch.id, patience=0)
    await release(engine, me)
    await wait_for_writers(engine, switch.id, patience=0)
    assert await flip(engine, switch.id, nothing) == PhaseRow(POSTGRES, 3, PhaseState.STEADY)


async def test_a_lease_that_is_not_handed_back_ends_by_the_clock_of_who_waits_for_it(engine: AsyncEngine) -> None:
    await start_in(engine, COSMOS)
    await renew(engine, lease_s=11)
    switch = await drain(engine, POSTGRES)
    await run(engine, "UPDATE crossfeed.writer SET expires_at = '-infinity'")  # Postgres' clock was stepped
    waits: list[int] = []
    await wait_for_writers(engine, switch.id, patience=60, clock=Clock(), on_wait=lambda left: waits.append(len(left)))
    assert waits == [1] * 5, "0, 2, … seconds: it was not over before eleven of them had passed"
    await flip(engine, switch.id, nothing)


async def test_who_waits_for_writers_of_another_switch_is_told(engine: AsyncEngine) -> None:
    await start_in(engine, COSMOS)
    await renew(engine, lease_s=0.1)
    switch = await drain(engine, POSTGRES)
    await cancel_switch(engine, switch.id, why="test")
    with pytest.raises(ConflictError, match="is cancelled"):
        await wait_for_writers(engine, switch.id, patience=60, clock=Clock())
    assert len(await writers(engine)) == 1, "its writer has a lease that it renews"


async def test_a_drain_waits_for_a_renewal_under_way_and_knows_of_its_lease(engine: AsyncEngine) -> None:
    await start_in(engine, COSMOS)
    async with engine.begin() as renewing:
        assert (await renew_within(renewing))[3]
        draining = asyncio.create_task(drain(engine, POSTGRES))
        await asyncio.sleep(0.2)
        assert not draining.done()
    await draining
    assert len(await writers(engine)) == 1


async def test_writers_that_died_cost_no_pause_and_those_alive_keep_their_leases(engine: AsyncEngine) -> None:
    alive, dead = uuid.uuid4(), uuid.uuid4()
    await start_in(engine, COSMOS)
    await renew(engine, alive, lease_s=0.3)
    await renew(engine, dead, lease_s=0.3)
    await run(engine, "UPDATE crossfeed.writer SET expires_at = '-infinity'")  # Postgres' clock was stepped
    draining = asyncio.create_task(drain(engine, POSTGRES))
    await asyncio.sleep(0.1)
    assert (await renew(engine, alive, lease_s=0.3))[3], "nobody drains yet"
    switch = await draining
    assert len(await writers(engine)) == 1
    with pytest.raises(ConflictError, match="not ended"):
        await flip(engine, switch.id, nothing)


async def test_after_a_failover_those_whose_leases_it_forgot_come_back_before_anything_is_drained(
    engine: AsyncEngine,
) -> None:
    await start_in(engine, COSMOS)
    await run(engine, "UPDATE crossfeed.phase_history SET timeline = timeline - 1")  # what it was before
    draining = asyncio.create_task(begin_switch(engine, POSTGRES, who="test", why="test", lease_s=0.4))
    await asyncio.sleep(0.15)
    assert (await renew(engine))[3], "nobody drains yet"
    switch = await draining
    assert len(await writers(engine)) == 1
    with pytest.raises(ConflictError, match="not ended"):
        await flip(engine, switch.id, nothing)


async def test_a_failover_between_the_look_at_the_writers_and_the_drain_drains_nothing(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_in(engine, COSMOS)

    async def known_before(engine: AsyncEngine, lease_s: float) -> int:
        return await know_the_writers(engine, lease_s) - 1

    with monkeypatch.context() as patched:
        patched.setattr("core.postgres.switching.know_the_writers", known_before)
        with pytest.raises(ConflictError, match="failed over"):
            await drain(engine, POSTGRES)
    assert (await renew(engine))[3], "nobody drains"
    await drain(engine, POSTGRES)


async def test_a_writer_needs_no_right_but_that_to_the_schema(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        for statement in (
            "CREATE ROLE crossfeed_test_writer",
            "GRANT USAGE ON SCHEMA crossfeed TO crossfeed_test_writer",
            "SET LOCAL ROLE crossfeed_test_writer",
        ):
            await connection.exec_driver_sql(statement)
        me = uuid.uuid4()
        assert (await renew_within(connection, me))[3]
        await connection.exec_driver_sql(f"SELECT crossfeed.release_writer('{me}')")
        await connection.exec_driver_sql("RESET ROLE")
        assert await unexpired_writers(connection) == []


async def test_what_others_act_on_is_not_forgotten_by_a_crash(engine: AsyncEngine) -> None:
    await start_in(engine, COSMOS)
    async with engine.connect() as connection:
        for step in (renew_within, lock_phase):
            await connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            await step(connection)
            assert (await connection.exec_driver_sql("SHOW synchronous_commit")).scalar_one() == "on"
            await connection.rollback()
        await connection.exec_driver_sql("SET LOCAL synchronous_commit = remote_apply")
        await renew_within(connection)
        assert (await connection.exec_driver_sql("SHOW synchronous_commit")).scalar_one() == "remote_apply"
