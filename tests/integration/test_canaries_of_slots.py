"""The canary of every slot crosses to Cosmos DB by the way of everybody's messages, and is in nobody's way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.domain.account import Account
from core.migration.barrier import messages_arrived
from core.migration.validation import validate
from core.phases import Phase
from core.postgres.dead_letters import Direction
from core.postgres.switching import cancel_switch
from core.postgres.unit_of_work import PostgresUnitOfWork
from outbox.barrier import SlotBarrier
from outbox.cursor import load_groups
from outbox.log_reader import read_batch
from outbox.relay import open_relay
from outbox.slot_change import change_slots
from outbox.status import read_status
from tests.integration.canary_steps import (
    EVERY_S,
    IN_LOG,
    Target,
    age,
    are_in_log,
    have_crossed,
    ids_in,
    ids_of_slots,
    known,
    problems,
    relay_of,
    rows,
    running,
)
from tests.integration.relay_steps import MemorySink, make_primary, run, until
from tests.integration.switching_steps import COSMOS, drain

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Publish
    from core.mappings import Mappings
    from core.settings import Settings

ALL = 32


@pytest.fixture
def often(settings: Settings) -> Settings:
    return settings.model_copy(update={"canary_every_s": EVERY_S, "relay_lease_s": 1.0})


async def add_accounts(engine: AsyncEngine, mappings: Mappings, *ids: str) -> None:
    async with PostgresUnitOfWork(engine, mappings) as work:
        for id_ in ids:
            await work[Account].add(Account(id=id_, email=f"{id_}@example.org"))
        await work.commit()


async def test_one_of_every_slot_crosses_again_and_again_and_counts_as_nothing(
    often: Settings, mappings: Mappings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    relay = open_relay(often, mappings, engine, cosmos)
    async with running(relay):
        await until(lambda: have_crossed(engine, ALL))
        first = await ids_of_slots(cosmos, mappings)
        await until(lambda: are_in_log(engine, 3 * ALL))
        assert max(one.age_s for one in (await known(engine)).values()) < 5
        async with engine.connect() as connection:
            status = await read_status(connection)
    of_events = await ids_in(cosmos, cosmos.own.events.name)
    assert of_events == {f"crossfeed-slot-{number}" for number in range(16, ALL)}
    assert [len(await ids_in(cosmos, name)) for name in mappings.containers] == [4] * 4
    assert first == sorted(f"crossfeed-slot-{number}" for number in range(ALL)) == await ids_of_slots(cosmos, mappings)
    assert (relay.stats.messages, relay.stats.published, relay.stats.events) == (0, 0, 0)
    assert (status.backlog.messages, status.backlog.oldest_s) == (0, None)
    parity = await validate(engine, cosmos, mappings, often, deep=True, settle_s=0.0)
    assert [(one.rows, one.documents, one.total) for one in parity.entities.values()] == [(0, 0, 0)] * 4


async def test_it_crosses_only_behind_everything_before_it_in_its_slot(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    target, sink, free = Target(), MemorySink(), asyncio.Event()
    one = sink._one

    async def held(item: Publish, *arguments: object) -> object:
        if item.identity.id != "late":
            await free.wait()
        return await one(item, *arguments)  # type: ignore[arg-type]

    sink._one = held  # type: ignore[assignment,method-assign]
    relay = relay_of(often, mappings, engine, target, sink)
    async with running(relay):
        await until(lambda: len(target.written) >= ALL)
        ids = [f"a{number}" for number in range(20)]
        await add_accounts(engine, mappings, *ids)
        await until(lambda: relay._rounds.streams[0].oldest_at is not None)
        target.written.clear()
        seen = len(await rows(engine, IN_LOG))
        await until(lambda: are_in_log(engine, seen + 32))
        await asyncio.sleep(EVERY_S)
        assert set(target.written) == set(range(16, ALL)), "those of events have nothing before them"
        await add_accounts(engine, mappings, "late")
        await until(lambda: len(sink.states) == 1)  # what comes behind canaries does not wait for what is before them
        free.set()
        await until(lambda: set(target.written) == set(range(ALL)))
        assert len(sink.states) == 1 + len(ids)


async def test_one_that_cosmos_db_does_not_take_holds_up_no_document_and_grows_old(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    target, sink = Target(fails=True), MemorySink()
    async with running(relay_of(often, mappings, engine, target, sink)):
        await until(lambda: are_in_log(engine, 16))
        await add_accounts(engine, mappings, "a", "b")
        await until(lambda: len(sink.states) == 2)
        await asyncio.sleep(2 * EVERY_S)
        await age(engine, 100)
        assert not any(one.lag_s for one in (await known(engine)).values())
        [said] = await problems(engine, Direction.TO_COSMOS)
        assert said.startswith("the canary of slot ")
        assert "has not crossed for 10" in said
        target.fails = False
        await until(lambda: set(target.written) == set(range(ALL)))


@pytest.mark.parametrize(
    ("phase", "slots"),
    [
        (Phase.COSMOS_ONLY, []),
        (Phase.DUAL_WRITE_COSMOS_READ, []),
        (Phase.DUAL_WRITE_POSTGRES_READ, list(range(ALL))),
        (Phase.POSTGRES_ONLY, list(range(16, ALL))),
    ],
)
async def test_only_what_is_carried_in_the_phase_has_one_and_two_relays_write_no_more(
    often: Settings, mappings: Mappings, engine: AsyncEngine, phase: Phase, slots: list[int]
) -> None:
    if phase is not Phase.COSMOS_ONLY:
        await make_primary(engine, phase)
    late = often.model_copy(update={"canary_every_s": 60.0})
    first, second = (relay_of(late, mappings, engine, Target()) for _ in range(2))
    for relay in (first, second, first):
        await relay.leases.renew()
        await relay.leases.release(relay.leases.surplus)
    await second.leases.renew()
    held = {lease.slot for relay in (first, second) for lease in relay.leases.held}
    assert held == set(range(ALL))
    of_first = {lease.slot for lease in first.leases.held}
    for _ in range(2):
        await asyncio.gather(first._canaries.write(), second._canaries.write())
    assert sorted(await rows(engine, IN_LOG)) == slots
    await first.leases.hand_over()
    await second.leases.renew()
    await second._canaries.write()
    assert sorted(await rows(engine, IN_LOG)) == slots
    await age(engine, 20)
    await second._canaries.write()
    assert sorted(await rows(engine, IN_LOG)) == sorted([*slots, *(slot for slot in slots if slot in of_first)])
    assert len(await known(engine)) == len(slots)
    seen = await rows(engine, IN_LOG)
    await run(engine, "UPDATE crossfeed.slot SET token = token + 1", "DELETE FROM crossfeed.canary")
    await second._canaries.write()
    assert await rows(engine, IN_LOG) == seen, "a relay that lost its slots writes none"


async def test_a_draining_switch_refuses_them_and_waits_for_none(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    target = Target(fails=True)
    async with running(relay_of(often, mappings, engine, target)):
        await until(lambda: are_in_log(engine, 16))
        switch = await drain(engine, COSMOS)
        seen = len(await rows(engine, IN_LOG))
        async with asyncio.timeout(10):
            await messages_arrived(engine, SlotBarrier(), lambda _: None)
        await asyncio.sleep(2 * EVERY_S)
        assert len(await rows(engine, IN_LOG)) == seen
        target.fails = False
        await rows(engine, "UPDATE crossfeed.canary SET unseen_since = NULL, crossed_at = crossed_at - interval '1 h'")
        assert await problems(engine, Direction.TO_COSMOS) == [], "none is under way, and none may be written"
        await cancel_switch(engine, switch.id, why="test")
        await until(lambda: are_in_log(engine, seen + 16))


async def test_a_switch_that_begins_while_one_is_written_refuses_it_quietly(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    relay = relay_of(often, mappings, engine, Target())
    await relay.leases.renew()
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SELECT crossfeed.drain(gen_random_uuid(), 1::smallint, 'test', 'test')")
        writing = asyncio.ensure_future(relay._canaries.write())
        await until(lambda: _is_waiting(engine))
    await writing
    assert await rows(engine, IN_LOG) == await rows(engine, "SELECT part FROM crossfeed.canary") == []


async def _is_waiting(engine: AsyncEngine) -> bool:
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'crossfeed.outbox'::regclass"
    return bool(await rows(engine, waiting))


async def test_slots_that_are_cut_anew_wait_for_no_canary_and_leave_none_behind(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    relay = relay_of(often, mappings, engine, Target())
    await relay.leases.renew()
    await relay._canaries.write()
    assert len(await rows(engine, IN_LOG)) == ALL
    assert await rows(engine, "SELECT crossfeed.backlog()") == [0]
    await change_slots(engine, 4, patience_s=0.1)
    assert await known(engine) == {}
    await relay.leases.renew()
    await relay._canaries.write()
    assert list(await known(engine)) == [f"slot {number}" for number in range(8)]


async def test_the_log_of_nothing_but_canaries_is_passed_and_is_no_history(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    relay = relay_of(often, mappings, engine, Target())
    await relay.leases.renew()
    await relay._canaries.write()
    async with engine.connect() as connection:
        groups = await load_groups(connection)
        batches = [await read_batch(connection, group, 100) for group in groups]
    assert [len(batch.canaries) for batch in batches] == [16, 16]
    assert [(batch.newest, batch.left, batch.messages) for batch in batches] == [(None, False, ())] * 2
    await relay.run_once()
    async with engine.connect() as connection:
        [states] = [group for group in await load_groups(connection) if 0 in group.slots]
        assert (await read_batch(connection, states, 100)).canaries == (), "or its partition would never be dropped"


async def test_a_marker_names_the_last_message_of_a_page_and_not_the_canary_behind_it(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    relay = relay_of(often, mappings, engine, Target())
    await relay.leases.renew()
    await add_accounts(engine, mappings, "a")
    await relay._canaries.write()
    async with engine.connect() as connection:
        [states] = [group for group in await load_groups(connection) if 0 in group.slots]
        batch = await read_batch(connection, states, 100)
    assert (len(batch.messages), len(batch.canaries), batch.left) == (1, 16, True)
    assert batch.newest is not None
    message = "SELECT seq || ' ' || xid FROM crossfeed.outbox WHERE entity = 'Account'"
    assert [f"{batch.newest.seq} {batch.newest.xid}"] == await rows(engine, message)


async def test_what_somebody_else_calls_a_canary_in_the_log_stops_nobody(
    often: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    await rows(
        engine,
        "INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)"
        " SELECT 3, 'crossfeed:canary', '[]', id, 2, 0, false"
        " FROM unnest(ARRAY['', 'x', '-1', '99999999999999999999', '²', '7', '77']) AS id",
    )
    sink = MemorySink()
    async with running(relay_of(often, mappings, engine, Target(), sink)):
        await add_accounts(engine, mappings, "a")
        await until(lambda: len(sink.states) == 1)
        await until(lambda: have_crossed(engine, ALL))
