"""The canary of every feed range crosses to Postgres by the way of every change, and is in nobody's way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from changefeed.canaries import FeedCanaries, write_feed_canaries
from changefeed.processor import Processor
from core.canary_marks import SeenCanary
from core.cosmos.canaries import write_canaries
from core.cosmos.feed import feed_ranges
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.migration.validation import validate
from core.phases import Phase
from core.postgres.canaries import clock_and_epoch, record_seen, record_written
from core.postgres.dead_letters import Direction
from core.postgres.phases import open_phase
from core.postgres.switching import cancel_switch
from tests.integration.canary_steps import (
    EVERY_S,
    Target,
    age,
    have_crossed,
    ids_in,
    known,
    problems,
    relay_of,
    rows,
)
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import make_primary, until
from tests.integration.switching_steps import POSTGRES, drain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings

EPOCH = 2


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share: its ranges are split here."""
    return own_cosmos_server


@pytest.fixture
async def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, cosmos_server: CosmosServer) -> Steps:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    split(cosmos_server, cosmos)
    return Steps(engine, cosmos, mappings, ACCOUNTS)


def split(server: CosmosServer, store: CosmosStore) -> None:
    """Split the first range of the accounts."""
    container = server.account.container(store.database, "Accounts")
    container.split(container.partitions[0].id)


@asynccontextmanager
async def mirroring(steps: Steps, every_s: float = EVERY_S) -> AsyncIterator[Processor]:
    """Run a processor and its canaries, as `crossfeed mirror` does."""
    stop = asyncio.Event()
    processor = Processor(steps.engine, steps.store, steps.mappings, poll_ms=10, lease_s=2)
    async with asyncio.TaskGroup() as group:
        group.create_task(processor.run(stop))
        group.create_task(_canaries(steps, processor, every_s).run(stop))
        try:
            yield processor
        finally:
            stop.set()


def _canaries(steps: Steps, processor: Processor, every_s: float = EVERY_S) -> FeedCanaries:
    return FeedCanaries(steps.engine, steps.store, steps.mappings, processor.leases, every_s)


async def _ranges(steps: Steps) -> int:
    count = 0
    for name in steps.mappings.containers:
        count += len(await feed_ranges(steps.store.container_named(name)))
    return count


async def _write(steps: Steps, container: str = "Accounts") -> None:
    await write_feed_canaries(steps.engine, steps.store, steps.mappings, container)


async def _show(steps: Steps, *seen: SeenCanary, container: str = "Accounts") -> None:
    async with steps.engine.begin() as connection:
        await record_seen(connection, container, seen)


async def test_one_of_every_range_crosses_again_and_again_and_counts_as_nothing(
    steps: Steps, settings: Settings
) -> None:
    ranges = await _ranges(steps)
    assert ranges > len(steps.mappings.containers)
    async with mirroring(steps) as processor:
        await until(lambda: have_crossed(steps.engine, ranges))
        before = {name: one.age_s for name, one in (await known(steps.engine)).items()}
        await asyncio.sleep(2 * EVERY_S)
        after = await known(steps.engine)
        assert after.keys() == before.keys()
        assert {name.partition(" ")[0] for name in after} == set(steps.mappings.containers)
        assert max(one.age_s for one in after.values()) < 5
        assert max(one.lag_s or 0 for one in after.values()) < 5
    done = processor.appliers["mirror/Accounts"].counts()
    assert {name: count for name, count in done.items() if count and name != "ignored"} == {}
    for table in ("accounts", "crossfeed.tombstone", "crossfeed.dead_letter", "crossfeed.mirror_parked"):
        assert await rows(steps.engine, f"SELECT count(*) FROM {table}") == [0]
    assert await rows(steps.engine, "SELECT count(*) FROM crossfeed.outbox") == [0]
    parity = await validate(steps.engine, steps.store, steps.mappings, settings, deep=True, settle_s=0.0)
    assert [(one.rows, one.documents, one.total) for one in parity.entities.values()] == [(0, 0, 0)] * 4


async def test_a_range_that_is_split_gets_one_more_and_what_is_no_range_leaves_none_behind(
    steps: Steps, cosmos_server: CosmosServer
) -> None:
    async with mirroring(steps):
        before = await _ranges(steps)
        await until(lambda: have_crossed(steps.engine, before))
        split(cosmos_server, steps.store)
        await steps.add(Account(id="a", email="a@example.org"))
        await until(lambda: have_crossed(steps.engine, before + 1))
        await rows(
            steps.engine,
            "INSERT INTO crossfeed.canary (direction, container, part, epoch, written, crossed_at)"
            " SELECT 'to_postgres', name, 'crossfeed-canary-99', 2, 'e', now() - interval '1 hour'"
            " FROM unnest(ARRAY['Accounts', 'Unmapped']) AS name",
        )
        await until(lambda: have_crossed(steps.engine, before + 1))
        assert await problems(steps.engine, Direction.TO_POSTGRES) == []


async def test_the_holder_of_the_first_range_alone_writes_them_and_only_where_the_mirror_carries(steps: Steps) -> None:
    first, second = (Processor(steps.engine, steps.store, steps.mappings, lease_s=10) for _ in range(2))
    await first._prepare()
    for processor in (first, second, first):
        await processor.leases.renew()
        await processor.leases.release(processor.leases.surplus)
    await second.leases.renew()
    assert first.leases.held
    assert second.leases.held
    for processor in (first, second, first):
        await _canaries(steps, processor, 60.0).write()
    containers = {
        name for one in (first, second) for name in steps.mappings.containers if _canaries(steps, one)._is_mine(name)
    }
    assert containers == set(steps.mappings.containers)
    assert len(await known(steps.engine)) == await _ranges(steps)
    etags = await rows(steps.engine, "SELECT written FROM crossfeed.canary ORDER BY container, part")
    await _canaries(steps, first, 60.0).write()
    assert await rows(steps.engine, "SELECT written FROM crossfeed.canary ORDER BY container, part") == etags
    switch = await drain(steps.engine, POSTGRES)
    await age(steps.engine, 600)
    for processor in (first, second):
        await _canaries(steps, processor, 60.0).write()
    assert await rows(steps.engine, "SELECT written FROM crossfeed.canary ORDER BY container, part") == etags
    await cancel_switch(steps.engine, switch.id, why="test")
    for processor in (first, second):
        await _canaries(steps, processor, 60.0).write()
    assert await rows(steps.engine, "SELECT written FROM crossfeed.canary ORDER BY container, part") != etags


@pytest.mark.parametrize("phase", [Phase.COSMOS_ONLY, Phase.DUAL_WRITE_POSTGRES_READ, Phase.POSTGRES_ONLY])
async def test_in_other_phases_none_is_written(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, phase: Phase
) -> None:
    if phase is not Phase.COSMOS_ONLY:
        await make_primary(engine, phase)
    steps = Steps(engine, cosmos, mappings, ACCOUNTS)
    processor = Processor(engine, cosmos, mappings, lease_s=10)
    await processor._prepare()
    await processor.leases.renew()
    await _canaries(steps, processor).write()
    assert await ids_in(cosmos, "Accounts") == set()
    await _write(steps)  # as the timer of the triggers does
    assert await known(engine) == {}, "nothing is carried this way"


async def test_a_range_that_stands_still_is_not_hidden_by_the_others(steps: Steps) -> None:
    await _write(steps)
    ids = await rows(steps.engine, "SELECT part FROM crossfeed.canary ORDER BY part")
    assert len(ids) > 1
    await age(steps.engine, 200)
    sent, _ = await clock_and_epoch(steps.engine)
    await _show(steps, *(SeenCanary(id_, "e", sent) for id_ in ids[1:]))
    found = await known(steps.engine)
    assert found[f"Accounts {ids[0].rpartition('-')[2]}"].age_s >= 200
    assert sorted(one.age_s >= 200 for one in found.values()) == [False] * (len(ids) - 1) + [True]
    [said] = await problems(steps.engine, Direction.TO_POSTGRES)
    assert said.startswith(f"the canary of Accounts {ids[0].rpartition('-')[2]} has not crossed for 20")
    assert await problems(steps.engine, Direction.TO_COSMOS) == []
    assert await problems(steps.engine, Direction.TO_POSTGRES, every_s=0) == []


async def test_one_may_be_seen_before_it_is_recorded_as_written_and_an_old_one_is_no_news(steps: Steps) -> None:
    carried = await clock_and_epoch(steps.engine)
    sent, _ = carried
    ids = "crossfeed-canary-0"
    await _show(steps, SeenCanary(ids, "new", sent))
    assert await known(steps.engine) == {}, "who has written it is not known yet"
    await record_written(steps.engine, "Accounts", steps.mappings.containers, carried, {ids: "new"})
    facts = "SELECT unseen_since IS NULL AND lag_s < 5 AND crossed_at = to_timestamp({}) FROM crossfeed.canary"
    assert await rows(steps.engine, facts.format(sent)) == [True]
    await _show(steps, SeenCanary(ids, "old", sent - 3600))
    assert await rows(steps.engine, facts.format(sent)) == [True]


async def test_the_lag_is_from_when_it_was_asked_for_to_when_it_is_committed(steps: Steps) -> None:
    sent, _ = await clock_and_epoch(steps.engine)
    carried = sent - 40.0, EPOCH
    written = await write_canaries(steps.store, ACCOUNTS, carried)
    etags = {mark.id: mark.etag for mark in written.values()}
    await record_written(steps.engine, "Accounts", steps.mappings.containers, carried, etags)
    async with mirroring(steps, every_s=3600.0):
        await until(lambda: _accounts_have_crossed(steps))
    lags = [one.lag_s or 0 for name, one in (await known(steps.engine)).items() if name.startswith("Accounts ")]
    assert len(lags) == len(etags)
    assert 40 <= min(lags) <= max(lags) < 60


async def _accounts_have_crossed(steps: Steps) -> bool:
    found = await known(steps.engine)
    return all(one.lag_s is not None for name, one in found.items() if name.startswith("Accounts "))


async def test_what_somebody_else_calls_a_canary_is_no_part_and_stops_nobody(steps: Steps) -> None:
    for number, sent in enumerate((1e300, -1, "x", None, True, [1])):
        forged = {"kind": "canary", "epoch": 1, "sent": sent}
        document = {"id": f"crossfeed-canary-7{number}", "crossfeed": forged}
        await steps.store.container_named("Accounts").upsert_item(document)
    async with mirroring(steps):
        await steps.add(Account(id="a", email="a@example.org"))
        await until(lambda: _is_mirrored(steps))
        ranges = await _ranges(steps)
        await until(lambda: have_crossed(steps.engine, ranges))
    assert not any(" 7" in name for name in await known(steps.engine))


async def _is_mirrored(steps: Steps) -> bool:
    return await rows(steps.engine, "SELECT id FROM accounts") == ["a"]


async def test_where_they_are_switched_off_only_the_timer_of_the_triggers_keeps_its_own(steps: Steps) -> None:
    for container in ("Accounts", "GameSessions"):
        await _write(steps, container)
    await rows(
        steps.engine,
        "INSERT INTO crossfeed.trigger_progress (function, container, batches, documents, newest_ts)"
        " VALUES ('f', 'Accounts', 1, 1, 1)",
    )
    async with mirroring(steps, every_s=0.0):
        await until(lambda: _are_of(steps, {"Accounts"}))


async def _are_of(steps: Steps, containers: set[str]) -> bool:
    return {name.partition(" ")[0] for name in await known(steps.engine)} == containers


async def test_a_clock_that_was_put_back_hides_nothing(
    steps: Steps, settings: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    ahead = "UPDATE crossfeed.canary SET crossed_at = now() + interval '1 hour', at = now() + interval '1 hour'"
    past = "SELECT bool_and(crossed_at <= clock_timestamp()) FROM crossfeed.canary"
    await _write(steps)
    await rows(engine, ahead)
    await _write(steps)
    assert await rows(engine, past) == [True]
    await rows(engine, "DELETE FROM crossfeed.canary")
    await open_phase(engine, POSTGRES, who="test", why="test")
    relay = relay_of(settings.model_copy(update={"canary_every_s": 60.0}), mappings, engine, Target())
    await relay.leases.renew()
    await relay._canaries.write()
    await rows(engine, ahead)
    await relay._canaries.write()
    assert await rows(engine, past) == [True]


async def test_a_writer_that_slept_through_a_switch_takes_nothing_back(steps: Steps) -> None:
    mapped, (sent, _) = steps.mappings.containers, await clock_and_epoch(steps.engine)
    await record_written(steps.engine, "Accounts", mapped, (sent, EPOCH), {"crossfeed-canary-0": "new"})
    await record_written(steps.engine, "Accounts", mapped, (sent - 60, EPOCH - 1), {"crossfeed-canary-0": "old"})
    assert await rows(steps.engine, "SELECT written FROM crossfeed.canary") == ["new"]
    assert list(await known(steps.engine)) == ["Accounts 0"]
