"""The phase lease of writers to Cosmos DB: nothing is sent without one, nothing acknowledged after its end."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from core.clock import boot_clock
from core.errors import OutcomeUnknownError, PrimaryMovedError, StoreUnavailableError
from core.phases import Phase
from core.postgres.phases import open_phase
from core.postgres.switching import begin_switch, cancel_switch, flip
from core.postgres.write_lease import WriteLease
from core.postgres.writers import wait_for_writers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.phases import PhaseRow
    from core.postgres.switch_record import Switch

COSMOS = Phase.DUAL_WRITE_COSMOS_READ
POSTGRES = Phase.DUAL_WRITE_POSTGRES_READ
UNWATCHED: dict[str, float] = {"lease_s": 600.0, "poll_s": 60.0}
"""A lease that notices nothing by itself in the time of a test."""
LOCK = text("SELECT FROM crossfeed.phase FOR UPDATE")
WAITING = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
""")


@pytest.fixture
async def row(engine: AsyncEngine) -> PhaseRow:
    return await open_phase(engine, COSMOS, who="test", why="test")


@asynccontextmanager
async def leasing(engine: AsyncEngine, lease_s: float = 10.0, **options: Any) -> AsyncIterator[WriteLease]:
    async with aclosing(WriteLease(engine, lease_s, **{"poll_s": 0.03, **options})) as lease:
        yield lease


class Clock:
    """A clock that can be moved on, as if the process had been stopped meanwhile."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return boot_clock() + self.slept


async def holders(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        count: int = (await connection.execute(text("SELECT count(*) FROM crossfeed.writer"))).scalar_one()
        return count


async def write(lease: WriteLease, epoch: int) -> None:
    async with lease.writing(epoch):
        await asyncio.sleep(0)


async def expect_unknown(writing: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(OutcomeUnknownError):
        await writing


async def waiting_for_a_lock(engine: AsyncEngine) -> None:
    async with asyncio.timeout(3), engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        while not (await connection.execute(WAITING)).scalar_one():  # noqa: ASYNC110 - the database says when
            await asyncio.sleep(0.01)


async def drain(engine: AsyncEngine) -> Switch:
    return await begin_switch(engine, POSTGRES, who="test", why="test")


async def nothing(connection: AsyncConnection, row: PhaseRow) -> None:
    pass


async def soon(engine: AsyncEngine, count: int, within_s: float = 3.0) -> None:
    async with asyncio.timeout(within_s):
        while await holders(engine) != count:  # noqa: ASYNC110 - the database says when
            await asyncio.sleep(0.01)


async def test_many_writes_need_one_lease_which_is_handed_back_at_the_end(engine: AsyncEngine, row: PhaseRow) -> None:
    async with leasing(engine) as lease:
        assert await holders(engine) == 0
        await asyncio.gather(*(write(lease, row.epoch) for _ in range(20)))
        assert await holders(engine) == 1
        assert 8 < lease.left_s < 9  # a tenth less than Postgres believes
    assert await holders(engine) == 0
    assert lease.left_s == 0


async def test_a_drain_lets_a_write_in_flight_end_then_the_lease_is_handed_back_at_once(
    engine: AsyncEngine, row: PhaseRow
) -> None:
    async with leasing(engine) as lease:
        async with lease.writing(row.epoch):
            await drain(engine)
            await asyncio.sleep(0.2)  # the drain was noticed by now
            with pytest.raises(PrimaryMovedError, match="draining"):
                await write(lease, row.epoch)
            assert await holders(engine) == 1  # a switch that sees nobody would flip under this write
        await soon(engine, 0)


async def test_a_refused_renewal_leaves_the_lease_of_a_write_in_flight_where_it_is(
    engine: AsyncEngine, row: PhaseRow
) -> None:
    async with leasing(engine, **UNWATCHED) as lease, lease.writing(row.epoch):
        await drain(engine)
        with pytest.raises(PrimaryMovedError, match="draining"):
            await write(lease, row.epoch + 1)  # of a unit of work that knows more: Postgres is asked, and refuses
        assert await holders(engine) == 1


async def test_nothing_is_acknowledged_after_a_lease_that_ran_out(engine: AsyncEngine, row: PhaseRow) -> None:
    clock = Clock()
    async with leasing(engine, clock=clock, **UNWATCHED) as lease:
        await write(lease, row.epoch)
        before = lease._lease

        async def write_slowly() -> None:
            async with lease.writing(row.epoch):
                clock.slept += UNWATCHED["lease_s"]
                await write(lease, row.epoch)  # under a new lease, which covers no earlier write

        with pytest.raises(OutcomeUnknownError, match="right to write had ended"):
            await write_slowly()
        assert before is not None
        assert lease._lease is not None
        assert lease._lease.me != before.me  # no belated word about the one can touch the other


async def test_an_answer_that_took_its_time_does_not_make_the_lease_longer(engine: AsyncEngine, row: PhaseRow) -> None:
    clock = Clock()
    async with leasing(engine, clock=clock, **UNWATCHED) as lease, asyncio.TaskGroup() as tasks:
        async with engine.begin() as connection:
            await connection.execute(LOCK)
            tasks.create_task(write(lease, row.epoch))
            await waiting_for_a_lock(engine)
            clock.slept += 100
        await soon(engine, 1)
        assert 0 < lease.left_s < 0.9 * UNWATCHED["lease_s"] - 100


async def test_a_lease_that_was_handed_back_before_its_writer_woke_up_is_none(
    engine: AsyncEngine, row: PhaseRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with leasing(engine, **UNWATCHED) as lease:
        ask = lease._ask

        async def wake_up_late() -> object:
            granted = await ask()
            lease._end(granted)
            await soon(engine, 0)
            return granted

        monkeypatch.setattr(lease, "_ask", wake_up_late)
        with pytest.raises(PrimaryMovedError, match="given back"):
            await write(lease, row.epoch)


async def test_a_renewal_that_is_answered_too_late_revives_nothing(engine: AsyncEngine, row: PhaseRow) -> None:
    clock = Clock()

    async def write_slowly(lease: WriteLease, go_on: asyncio.Event) -> None:
        async with lease.writing(row.epoch):
            await go_on.wait()

    async with leasing(engine, clock=clock, **UNWATCHED) as lease, asyncio.TaskGroup() as tasks:
        go_on = asyncio.Event()
        slow = tasks.create_task(expect_unknown(write_slowly(lease, go_on)))
        await soon(engine, 1)
        async with engine.begin() as connection:
            await connection.execute(LOCK)
            later = tasks.create_task(write(lease, row.epoch + 1))  # renews
            await waiting_for_a_lock(engine)
            clock.slept += UNWATCHED["lease_s"]
            await connection.execute(text("UPDATE crossfeed.phase SET epoch = epoch + 1"))
        await later
        go_on.set()
        await slow


async def test_an_error_of_a_write_is_not_hidden_by_a_lease_that_ran_out(engine: AsyncEngine, row: PhaseRow) -> None:
    clock = Clock()

    async def fail_slowly(lease: WriteLease) -> None:
        async with lease.writing(row.epoch):
            clock.slept += UNWATCHED["lease_s"]
            raise LookupError

    async with leasing(engine, clock=clock, **UNWATCHED) as lease:
        with pytest.raises(LookupError):
            await fail_slowly(lease)


async def test_a_lease_is_renewed_for_as_long_as_there_are_writes(engine: AsyncEngine, row: PhaseRow) -> None:
    async with leasing(engine, 0.6) as lease:
        for _ in range(8):
            async with lease.writing(row.epoch):
                await asyncio.sleep(0.1)
        async with engine.connect() as connection:
            found = (await connection.execute(text("SELECT renewals FROM crossfeed.writer"))).scalars().all()
        assert len(found) == 1
        assert found[0] >= 2
        await soon(engine, 0)  # nothing is written any more


async def test_a_lease_of_a_later_epoch_refuses_a_unit_of_work_of_an_earlier_one(
    engine: AsyncEngine, row: PhaseRow
) -> None:
    async with leasing(engine, **UNWATCHED) as lease:
        async with lease.writing(row.epoch):
            later = await open_phase(engine, Phase.COSMOS_ONLY, who="test", why="test")
            await write(lease, later.epoch)
            # The primary did not move: what is in flight is acknowledged.
        with pytest.raises(PrimaryMovedError, match="begin again"):
            await write(lease, row.epoch)
        assert await holders(engine) == 1


async def test_while_postgres_is_primary_no_lease_is_to_be_had(engine: AsyncEngine, row: PhaseRow) -> None:
    async with leasing(engine) as lease:
        switch = await drain(engine)
        await flip(engine, switch.id, nothing)
        with pytest.raises(PrimaryMovedError, match="Postgres is the primary now"):
            await write(lease, row.epoch)
    assert await holders(engine) == 0


async def test_a_postgres_that_does_not_answer_lets_nothing_through(engine: AsyncEngine, row: PhaseRow) -> None:
    async with leasing(engine, 0.6) as lease:
        async with engine.begin() as connection:
            await connection.execute(LOCK)
            with pytest.raises(StoreUnavailableError, match="did not answer in time"):
                await write(lease, row.epoch)
        await write(lease, row.epoch)


async def test_after_a_cancelled_switch_writing_goes_on_under_a_new_lease(engine: AsyncEngine, row: PhaseRow) -> None:
    async with leasing(engine) as lease:
        await write(lease, row.epoch)
        switch = await drain(engine)
        await wait_for_writers(engine, switch.id, patience=3)
        back = await cancel_switch(engine, switch.id, why="test")
        assert back.epoch == row.epoch
        await write(lease, row.epoch)
        assert await holders(engine) == 1


async def test_no_write_is_acknowledged_once_a_drain_has_ended(engine: AsyncEngine, row: PhaseRow) -> None:
    """Writes that take longer than their leases, and drains that are cancelled again."""
    chance = random.Random(7)
    acknowledged = unknown = 0
    is_over = asyncio.Event()

    async def keep_writing(lease: WriteLease) -> None:
        nonlocal acknowledged, unknown
        while not is_over.is_set():
            try:
                async with lease.writing(row.epoch):
                    await asyncio.sleep(chance.choice((0.001, 0.02, 0.45)))
                acknowledged += 1
            except PrimaryMovedError:
                await asyncio.sleep(0.01)
            except OutcomeUnknownError:
                unknown += 1

    async with leasing(engine, 0.3) as one, leasing(engine, 0.3) as two, asyncio.TaskGroup() as tasks:
        for lease in (one, two) * 3:
            tasks.create_task(keep_writing(lease))
        for _ in range(2):
            await asyncio.sleep(0.15)
            switch = await drain(engine)
            await wait_for_writers(engine, switch.id, patience=3)
            when_drained = acknowledged
            await asyncio.sleep(0.25)
            assert acknowledged == when_drained > 0
            await cancel_switch(engine, switch.id, why="test")
        is_over.set()
    assert unknown > 0
