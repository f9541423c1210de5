"""The status of the log counts what waits, says how old it is and who is to send it, and is cheap to ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.phases import Phase
from outbox.status import BOUND, Backlog, read_status
from tests.integration.log_steps import events, pass_all, rows, states
from tests.integration.relay_steps import connect, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings
    from outbox.status import OutboxStatus


async def look(engine: AsyncEngine) -> OutboxStatus:
    async with engine.connect() as connection:
        return await read_status(connection)


async def backlog(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        [(found,)] = await rows(connection, "SELECT crossfeed.backlog()")
        return int(found)


async def test_an_empty_log_has_no_backlog(engine: AsyncEngine) -> None:
    await make_primary(engine)
    status = await look(engine)
    assert status.backlog == Backlog(0, None)
    assert [slot.carries for slot in status.slots] == ["states"] * 16 + ["events"] * 16
    assert [(part.from_seq, part.until_seq) for part in status.partitions] == [
        (1, 1_000_001),
        (1_000_001, 2_000_001),
        (2_000_001, 3_000_001),
    ]
    assert (status.parked, status.dead_letters, status.overflow_bytes, status.unowned) == (0, 0, 0, 32)
    assert await backlog(engine) == 0


async def test_what_waits_is_counted_by_kind_and_the_oldest_gives_the_age(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(engine, states(40), events(3), "UPDATE crossfeed.outbox SET at = at - interval '90 s' WHERE seq = 20")
    status = await look(engine)
    assert (status.states.messages, status.events.messages, await backlog(engine)) == (40, 3, 43)
    assert status.states.oldest_s is not None
    assert status.events.oldest_s is not None
    assert 90 <= status.states.oldest_s < 120
    assert status.events.oldest_s < 30
    assert status.backlog.oldest_s == status.states.oldest_s
    assert sum(slot.backlog.messages for slot in status.slots) == 43
    await pass_all(engine, "states")
    assert (await look(engine)).backlog.messages == await backlog(engine) == 3


async def test_what_committed_late_and_what_is_left_of_a_large_delta_is_counted_exactly(
    engine: AsyncEngine, settings: Settings
) -> None:
    await make_primary(engine)
    async with await connect(settings) as late, await connect(settings) as later:
        for session, messages in ((late, 2), (later, 5)):
            await session.execute("BEGIN")
            await session.execute(states(messages))
        await run(engine, states(10))
        await pass_all(engine)
        await late.execute("COMMIT")
        assert await backlog(engine) == 2
        await run(engine, states(30), "UPDATE crossfeed.slot SET target = pg_current_snapshot(), position = 27")
        await run(engine, states(100))
        await later.execute("COMMIT")  # below the position, but not in the target
    assert await backlog(engine) == (17 + 30 - 27) + 5 + 100


async def test_a_backlog_is_counted_up_to_a_bound(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(engine, states(BOUND + 5000))
    assert (await look(engine)).states.messages == BOUND


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_COSMOS_READ, Phase.POSTGRES_ONLY])
async def test_states_wait_for_no_relay_in_a_phase_that_does_not_send_them(engine: AsyncEngine, phase: Phase) -> None:
    await make_primary(engine)
    await run(engine, states(4), events(2))
    await make_primary(engine, phase)
    status = await look(engine)
    assert (status.states, status.events.messages, await backlog(engine)) == (Backlog(), 2, 2)


async def test_owners_that_are_alive_are_named(engine: AsyncEngine) -> None:
    relay = "00000000-0000-0000-0000-000000000001"
    await run(
        engine,
        f"INSERT INTO crossfeed.relay (relay, name, expires_at) VALUES ('{relay}', 'one', now() + interval '1 minute')",
        f"UPDATE crossfeed.slot SET owner = '{relay}', token = 3 WHERE slot = 1",
        "UPDATE crossfeed.slot SET owner = gen_random_uuid() WHERE slot = 2",
    )
    status = await look(engine)
    owned = status.slots[1]
    assert (owned.owner, owned.name, owned.token, status.unowned) == (relay, "one", 3, 31)
    assert owned.lease_s is not None
    assert 50 < owned.lease_s <= 60
    assert status.slots[2].name is None


async def test_asking_costs_what_waits_and_not_what_the_log_holds(engine: AsyncEngine) -> None:
    """Events that nobody writes stand at an old cursor, behind all the states that came since."""
    await make_primary(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(states(100_000))
        await connection.exec_driver_sql("ANALYZE crossfeed.outbox")
    await pass_all(engine, "states")
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT crossfeed.backlog()"
        await rows(connection, explain)
        [(plan,)] = await rows(connection, explain)
    read = plan[0]["Plan"]
    assert read["Shared Hit Blocks"] + read["Shared Read Blocks"] < 300  # the log has thousands
