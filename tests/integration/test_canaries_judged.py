"""Canaries are written by one process each, and readiness follows the oldest of its direction, and names it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from changefeed.canaries import FeedCanaries
from changefeed.feed_leases import FeedLease, FeedLeases
from core.cosmos.feed import FeedRange
from core.phases import Phase
from core.postgres.dead_letters import Direction
from core.postgres.phases import open_phase, read_phase
from functions.doctor.patient import Installed
from functions.doctor.state_questions import ask_canaries
from functions.mirror_readiness import MirrorReadiness
from functions.readiness import Readiness
from tests.integration.canary_steps import (
    IN_LOG,
    Target,
    age,
    have_crossed,
    known,
    problems,
    relay_of,
    rows,
    running,
)
from tests.integration.feed_steps import give_ranges
from tests.integration.relay_steps import make_primary, until
from tests.integration.test_endpoints import WELL, StandIn
from tests.integration.test_mirror_endpoints import StandIn as MirrorStandIn

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

TO_POSTGRES = """
    INSERT INTO crossfeed.canary (direction, container, part, epoch, written, crossed_at)
    SELECT 'to_postgres', 'Accounts', 'crossfeed-canary-' || n, 2, 'e', now() - make_interval(secs => 10 + n * 20)
    FROM generate_series(0, 11) AS n
"""


@pytest.fixture
def judging(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"canary_every_s": 30.0, "relay_max_lag_s": 60.0, "mirror_max_lag_s": 60.0, "relay_lease_s": 60.0}
    )


async def of_relay(judging: Settings, engine: AsyncEngine, cosmos: CosmosStore, relay: StandIn) -> tuple[str, ...]:
    return (await Readiness(judging, engine, cosmos, relay).verdict()).problems


async def of_mirror(judging: Settings, engine: AsyncEngine, cosmos: CosmosStore) -> tuple[str, ...]:
    return (await MirrorReadiness(judging, engine, cosmos, MirrorStandIn()).verdict()).problems


async def test_a_relay_is_ready_as_long_as_the_oldest_canary_is_young_enough(
    judging: Settings, mappings: Mappings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    relay = relay_of(judging, mappings, engine, Target())
    await relay.leases.renew()
    await relay._canaries.write()
    await relay.run_once()
    stand_in = StandIn()
    assert await of_relay(judging, engine, cosmos, stand_in) == ()
    await age(engine, 85)
    assert await of_relay(judging, engine, cosmos, stand_in) == ()
    await age(engine, 10, "part = '7'")
    assert await of_relay(judging, engine, cosmos, stand_in) == ("the canary of slot 7 has not crossed for 95 s",)
    stand_in.now = replace(WELL, waits_for="this process is pinned to another phase")
    assert await of_relay(judging, engine, cosmos, stand_in) == ()
    stand_in.now = WELL
    await age(engine, 10, "part <> '7'")
    [said] = await of_relay(judging, engine, cosmos, stand_in)
    assert said.endswith("s, nor 31 others")
    off = judging.model_copy(update={"canary_every_s": 0.0})
    assert await of_relay(off, engine, cosmos, stand_in) == ()


async def test_a_relay_is_not_ready_when_nobody_has_written_a_canary_for_too_long(
    judging: Settings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    assert await of_relay(judging, engine, cosmos, StandIn()) == ()
    await rows(engine, "UPDATE crossfeed.phase_history SET at = at - interval '2 minutes'")
    [said] = await of_relay(judging, engine, cosmos, StandIn())
    assert said.startswith("the canary of slot 0 has not been written for 12")


async def test_a_mirror_is_ready_as_long_as_the_oldest_canary_is_young_enough(
    judging: Settings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await give_ranges(engine, "mirror/Accounts", 1)
    await rows(engine, TO_POSTGRES)
    assert await of_mirror(judging, engine, cosmos) == (
        "the canary of Accounts 11 has not crossed for 230 s, nor 2 others",
    )
    await rows(engine, "DELETE FROM crossfeed.canary WHERE crossed_at < now() - interval '180 s'")
    assert await of_mirror(judging, engine, cosmos) == ()


async def test_the_doctor_allows_triggers_what_health_allows_them(
    judging: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await rows(engine, TO_POSTGRES)
    async with engine.connect() as connection:
        installed = Installed(judging, engine, mappings, None, await read_phase(connection))
    assert "has not crossed for 230 s" in (await ask_canaries(installed)).findings[0].what
    await rows(
        engine,
        "INSERT INTO crossfeed.trigger_progress (function, container, batches, documents, newest_ts)"
        " VALUES ('f', 'Accounts', 1, 1, 1)",
    )
    assert (await ask_canaries(installed)).findings == ()
    await age(engine, 500)
    assert len((await ask_canaries(installed)).findings) == 1


async def test_a_mirror_is_not_ready_when_nobody_has_written_a_canary_for_too_long(
    judging: Settings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await give_ranges(engine, "mirror/Accounts", 1)
    await rows(engine, "UPDATE crossfeed.phase_history SET at = at - interval '4 minutes'")
    assert await of_mirror(judging, engine, cosmos) == (), "the triggers may read it, and their health says so"
    await rows(
        engine,
        "INSERT INTO crossfeed.feed_processor (processor, name, feeds, lease_s, expires_at)"
        " VALUES (gen_random_uuid(), 'p', ARRAY['mirror/Accounts', 'consumers/x'], 60, now() + interval '60 s')",
    )
    [said] = await of_mirror(judging, engine, cosmos)
    assert said.startswith("the canary of Accounts has not been written for 24")


async def test_what_cosmos_db_did_not_take_is_tried_again_before_the_next_is_due(
    judging: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    target = Target(fails=True)
    async with running(relay_of(judging, mappings, engine, target)):
        await until(lambda: target.failed >= 32)
        target.fails = False
        await until(lambda: have_crossed(engine, 32))
    assert len(await rows(engine, IN_LOG)) == 32


@pytest.mark.parametrize(("lower", "is_written"), [("", True), ("20", False)])
async def test_the_holder_of_any_other_range_of_a_container_writes_none(
    mappings: Mappings, engine: AsyncEngine, cosmos: CosmosStore, lower: str, is_written: bool
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    leases = FeedLeases(engine, ["mirror/Accounts"], 60)
    await leases.renew()
    leases._held = {"": FeedLease("mirror/Accounts", FeedRange.between(lower, "FF"), 1)}
    await FeedCanaries(engine, cosmos, mappings, leases, 30.0).write()
    assert bool(await rows(engine, "SELECT part FROM crossfeed.canary")) is is_written


async def test_an_epoch_begins_anew(judging: Settings, mappings: Mappings, engine: AsyncEngine) -> None:
    await make_primary(engine)
    async with running(relay_of(judging, mappings, engine, Target())):
        await until(lambda: have_crossed(engine, 32))
    await age(engine, 3600)
    await open_phase(engine, Phase.POSTGRES_ONLY, who="test", why="test")
    assert await known(engine) == {}
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    assert await problems(engine, Direction.TO_COSMOS) == []
    relay = relay_of(judging, mappings, engine, Target())
    await relay.leases.renew()
    await relay._canaries.write()
    assert await problems(engine, Direction.TO_COSMOS) == []
    assert {one.lag_s for one in (await known(engine)).values()} == {None}


async def test_where_they_are_switched_off_those_that_there_were_are_forgotten(
    judging: Settings, mappings: Mappings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    async with running(relay_of(judging, mappings, engine, Target())):
        await until(lambda: have_crossed(engine, 32))
    off = judging.model_copy(update={"canary_every_s": 0.0})
    async with running(relay_of(off, mappings, engine, Target())):
        await until(lambda: _is_forgotten(engine))


async def _is_forgotten(engine: AsyncEngine) -> bool:
    return not await rows(engine, "SELECT part FROM crossfeed.canary")
