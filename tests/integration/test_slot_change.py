"""The number of slots changes only when everything was sent, with writers and relays at work, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from core.errors import ConflictError
from core.phases import Phase
from outbox.cursor import Carries, load_groups
from outbox.log_reader import read_batch
from outbox.relay import Relay
from outbox.slot_change import change_slots
from tests.integration.log_steps import events, pass_all, rows, states
from tests.integration.relay_steps import MemorySink, connect, make_primary, run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings

SLOTS = "SELECT slot, carries, token, owner FROM crossfeed.slot ORDER BY slot"
PARK = """
    INSERT INTO crossfeed.parked (slot, entity, partition_key, id, seq, event_id, event, reason, attempts, retry_at)
    SELECT 99, 'Account', '["p' || n || '"]', 'p' || n, s.seq, s.event_id, s.event, 'test', 1, now()
    FROM generate_series(1, 9) n, (VALUES (NULL, NULL, NULL), (7, 'e', json '{}')) AS s(seq, event_id, event)
"""


async def look(engine: AsyncEngine, sql: str) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        return await rows(connection, sql)


@pytest.mark.parametrize("to", [1, 5, 40])
async def test_the_slots_are_made_anew_and_identities_hash_to_them(engine: AsyncEngine, to: int) -> None:
    await make_primary(engine)
    await run(engine, states(200), PARK)
    await run(engine, "UPDATE crossfeed.slot SET token = 41, owner = gen_random_uuid() WHERE slot = 7")
    await pass_all(engine)
    await change_slots(engine, to)
    expected = [*((slot, "states") for slot in range(to)), *((slot, "events") for slot in range(to, 2 * to))]
    assert await look(engine, SLOTS) == [(slot, carries, 42, None) for slot, carries in expected]
    await run(engine, states(400), events(400))
    used = "SELECT event_id IS NOT NULL, count(DISTINCT slot), min(slot), max(slot) FROM crossfeed.outbox {} GROUP BY 1"
    assert await look(engine, used.format("WHERE seq > 200") + " ORDER BY 1") == [
        (False, to, 0, to - 1),
        (True, to, to, 2 * to - 1),
    ]
    assert await look(engine, "SELECT count(*) FROM crossfeed.parked WHERE slot = 99") == [(0,)]


@pytest.mark.parametrize("what", [states(1), events(1)], ids=["a state", "an event"])
async def test_what_no_relay_has_sent_forbids_it_and_nothing_is_changed(engine: AsyncEngine, what: str) -> None:
    await make_primary(engine)
    await run(engine, states(20_000), events(100))
    await pass_all(engine)
    await run(engine, what)
    before = await look(engine, SLOTS)
    with pytest.raises(ConflictError, match=r"slots \d+ have messages that are not sent"):
        await change_slots(engine, 4, patience_s=0.1)
    assert await look(engine, SLOTS) == before
    await run(engine, states(1))  # the log takes messages as before


async def test_a_relay_that_has_not_heard_of_it_takes_no_state_for_an_event(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await pass_all(engine)
    async with engine.connect() as connection:
        [before] = [group for group in await load_groups(connection) if group.carries is Carries.EVENTS]
        await change_slots(engine, 2 * len(before.slots))
        await run(engine, states(100))  # half of them into slots that carried events
        for page_size in (200, 10):  # a delta in one piece, and in pages
            assert (await read_batch(connection, before, page_size)).events == ()


async def test_a_writer_that_does_not_end_is_named(engine: AsyncEngine, settings: Settings) -> None:
    await make_primary(engine)
    async with await connect(settings) as held:
        await held.execute("BEGIN")
        await held.execute("INSERT INTO accounts (id) VALUES ('secret')")
        with pytest.raises(ConflictError, match=r"writers do not end: process \d+.*INSERT INTO accounts") as refused:
            await change_slots(engine, 4)
    assert "secret" not in str(refused.value)
    assert len(await look(engine, SLOTS)) == 32


async def test_writers_and_a_relay_at_work_lose_nothing(
    engine: AsyncEngine, settings: Settings, mappings: Mappings
) -> None:
    """Those that wait for the change are planned with its functions, and write into the new slots."""
    await make_primary(engine)
    sink = MemorySink()
    quick = settings.model_copy(update={"relay_lease_s": 1.0})
    relay = Relay(quick, mappings, engine, sink)
    stop, enough = asyncio.Event(), asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    written: list[str] = []

    async def write(writer: int) -> None:
        async with await connect(settings) as session:
            while not enough.is_set():
                name = f"{writer}-{len(written)}"
                await session.execute(f"INSERT INTO accounts (id) VALUES ('{name}')")
                written.append(name)
                await asyncio.sleep(0.003)

    writers = [asyncio.ensure_future(write(writer)) for writer in range(4)]
    await until(lambda: len(written) > 50)
    for to in (3, 24):
        await until_changed(engine, to)
        before = len(written)
        await until(lambda: len(written) > before + 50)  # noqa: B023 - awaited here
    enough.set()
    await asyncio.gather(*writers)
    await until(lambda: len(sink.states) == len(written))
    stop.set()
    await running
    assert {identity.id for identity in sink.states} == set(written)
    wrong = (
        "SELECT count(*) FROM crossfeed.outbox o WHERE NOT EXISTS (SELECT FROM crossfeed.slot s WHERE s.slot = o.slot)"
    )
    assert await look(engine, wrong) == [(0,)]


async def until_changed(engine: AsyncEngine, to: int) -> None:
    """Try as an operator does."""
    for _ in range(20):
        try:
            await change_slots(engine, to)
        except ConflictError:
            continue
        return
    pytest.fail("the relay never sent everything")


async def test_what_is_left_of_states_while_cosmos_db_is_the_primary_forbids_it(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(engine, states(1))
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    with pytest.raises(ConflictError, match="what is left of states is not sent"):
        await change_slots(engine, 4, patience_s=0.0)
