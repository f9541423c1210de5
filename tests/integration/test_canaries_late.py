"""A canary is called late where something does not cross: not behind a steady lag, and not because none was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from changefeed.canaries import FeedCanaries
from changefeed.feed_leases import FeedLease, FeedLeases
from core.canary_marks import SeenCanary
from core.cosmos.feed import FeedRange
from core.phases import Phase
from core.postgres.canaries import clock_and_epoch, containers_due, record_seen, record_written
from core.postgres.dead_letters import Direction
from core.postgres.switching import cancel_switch
from outbox.slot_change import change_slots
from tests.integration.canary_steps import IN_LOG, Target, age, have_crossed, known, problems, relay_of, rows, running
from tests.integration.relay_steps import make_primary, until
from tests.integration.switching_steps import COSMOS, drain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings

EVERY_S = 30.0
STEP_S = 15
LONG_AGO = "UPDATE crossfeed.phase_history SET at = at - interval '1 hour'"


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share: its ranges are split here."""
    return own_cosmos_server


@pytest.fixture
async def writer(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, cosmos_server: CosmosServer
) -> FeedCanaries:
    """Of the accounts, in two ranges at least."""
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    container = cosmos_server.account.container(cosmos.database, "Accounts")
    container.split(container.partitions[0].id)
    leases = FeedLeases(engine, ["mirror/Accounts"], 60)
    await leases.renew()
    leases._held = {"": FeedLease("mirror/Accounts", FeedRange.between("", "FF"), 1)}
    return FeedCanaries(engine, cosmos, mappings, leases, EVERY_S)


@pytest.fixture
def regularly(settings: Settings) -> Settings:
    return settings.model_copy(update={"canary_every_s": EVERY_S, "relay_lease_s": 60.0})


async def shown_by_feed(store: CosmosStore) -> dict[str, str]:
    """The newest version of each canary, all that a feed shows: its etag by its id."""
    query = "SELECT c.id, c._etag FROM c WHERE c.crossfeed.kind = 'canary'"
    found = store.container_named("Accounts").query_items(query)
    return {str(item["id"]): str(item["_etag"]) async for item in found}


async def show(writer: FeedCanaries, etags: Iterable[tuple[str, str]], ago_s: float = 0.0) -> None:
    sent, _ = await clock_and_epoch(writer.engine)
    async with writer.engine.begin() as connection:
        await record_seen(connection, "Accounts", [SeenCanary(id_, etag, sent - ago_s) for id_, etag in etags])


async def test_behind_a_steady_lag_that_is_allowed_they_come_out_and_none_is_late(writer: FeedCanaries) -> None:
    lag_s, written, shown = 60, {"": ""}, 0
    on_way_s = 0
    for _ in range(0, 600, STEP_S):
        await writer.write()
        newest = await shown_by_feed(writer.store)
        on_way_s = 0 if newest != written else on_way_s + STEP_S
        written = newest
        if on_way_s == lag_s:
            await show(writer, newest.items(), on_way_s)
            shown += 1
        assert await problems(writer.engine, Direction.TO_POSTGRES) == []
        await age(writer.engine, STEP_S)
    assert shown >= 5
    await age(writer.engine, 180)
    assert await problems(writer.engine, Direction.TO_POSTGRES) != [], "or it would never be late"


async def test_one_that_has_not_come_out_is_left_alone_until_it_must_be_lost_and_the_others_go_on(
    writer: FeedCanaries,
) -> None:
    await writer.write()
    first = await shown_by_feed(writer.store)
    stands, *go_on = sorted(first)
    assert go_on
    await age(writer.engine, 40)
    await writer.write()
    assert await shown_by_feed(writer.store) == first
    await show(writer, [(id_, first[id_]) for id_ in go_on], 40)
    await writer.write()
    second = await shown_by_feed(writer.store)
    assert {id_ for id_ in first if first[id_] != second[id_]} == set(go_on)
    assert len(await known(writer.engine)) == len(first), "what is left alone is not forgotten"
    await age(writer.engine, 261)
    await writer.write()
    third = await shown_by_feed(writer.store)
    assert {id_ for id_ in second if second[id_] != third[id_]} == {stands}


async def test_one_of_two_writers_at_once_that_is_recorded_last_and_was_overwritten_is_not_waited_for(
    writer: FeedCanaries,
) -> None:
    mapped, (sent, epoch) = writer.mappings.containers, await clock_and_epoch(writer.engine)
    id_ = "crossfeed-canary-0"
    await record_written(writer.engine, "Accounts", mapped, (sent - 60, epoch), {id_: "overwritten"})
    await show(writer, [(id_, "newer")], 59)
    assert list(await containers_due(writer.engine, ["Accounts"], EVERY_S, 300.0)) == ["Accounts"]
    await record_written(writer.engine, "Accounts", mapped, (sent - 40, epoch), {id_: "on its way"})
    await show(writer, [(id_, "newer")], 59)
    assert await containers_due(writer.engine, ["Accounts"], EVERY_S, 300.0) == {}


async def test_the_age_of_slots_that_are_cut_anew_begins_with_the_cut(
    regularly: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    await rows(engine, LONG_AGO)
    assert len(await problems(engine, Direction.TO_COSMOS)) == 1
    await change_slots(engine, 4, patience_s=0.1)
    assert await problems(engine, Direction.TO_COSMOS) == []
    await age(engine, 100)
    [said] = await problems(engine, Direction.TO_COSMOS)
    assert said.startswith("the canary of slot 0 has not been written for 10")
    relay = relay_of(regularly, mappings, engine, Target())
    await relay.leases.renew()
    await relay._canaries.write()
    assert len(await rows(engine, IN_LOG)) == 8
    [said] = await problems(engine, Direction.TO_COSMOS)
    assert said.startswith("the canary of slot 0 has not crossed for 10")


async def test_a_drain_that_is_cancelled_leaves_none_late_that_was_not_late_before(
    regularly: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    async with running(relay_of(regularly, mappings, engine, Target())):
        await until(lambda: have_crossed(engine, 32))
    await rows(engine, "UPDATE crossfeed.canary SET unseen_since = at WHERE part = '7'")
    switch = await drain(engine, COSMOS)
    await age(engine, 600)
    await cancel_switch(engine, switch.id, why="test")
    [said] = await problems(engine, Direction.TO_COSMOS)
    assert said.startswith("the canary of slot 7 has not crossed for 60")
    assert "others" not in said
    await rows(engine, "UPDATE crossfeed.canary SET unseen_since = NULL")
    assert await problems(engine, Direction.TO_COSMOS) == []
    await rows(engine, "UPDATE crossfeed.switch SET ended_at = ended_at - interval '100 s'")
    [said] = await problems(engine, Direction.TO_COSMOS)
    assert said.endswith("for 100 s, nor 31 others")
    await rows(engine, "DELETE FROM crossfeed.canary")
    await rows(engine, LONG_AGO)
    [said] = await problems(engine, Direction.TO_COSMOS)
    assert "has not been written for 100 s" in said


async def test_a_relay_that_is_pinned_to_another_phase_writes_none(
    regularly: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    for pinned, count in ((Phase.POSTGRES_ONLY, 0), (Phase.DUAL_WRITE_POSTGRES_READ, 32)):
        relay = relay_of(regularly.model_copy(update={"phase": pinned}), mappings, engine, Target())
        await relay.leases.renew()
        await relay._canaries.write()
        assert len(await rows(engine, IN_LOG)) == count
        await relay.leases.hand_over()
