"""The processor's HTTP endpoints: ready while changes are applied, and whatever is in the way is named."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from changefeed.lag import RangeHealth
from changefeed.processor import Processor, ProcessorHealth
from changefeed.stats import ProcessorStats
from core.domain.mappings import ACCOUNTS
from core.errors import StoreUnavailableError
from core.phases import Phase
from core.postgres.switching import begin_switch, finish_switch, flip
from functions.endpoints import serving
from functions.mirror_readiness import MirrorReadiness
from tests.integration.feed_steps import give_ranges
from tests.integration.relay_steps import make_primary, run, until
from tests.integration.test_endpoints import Probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

RANGE = RangeHealth("mirror/Accounts", "-FF", lag_s=0.1, behind=0, progress_age_s=0.1, error=None)
WELL = ProcessorHealth(is_stopping=False, lease_left_s=5.0, processors=2, ranges=(RANGE,))
PARKED = """
    INSERT INTO crossfeed.mirror_parked (entity, partition_key, id, etag, ts, lsn, reason, retry_at)
    VALUES ('Account', '["a"]', 'a', 'e', 1, 1, 'unique', clock_timestamp() + '{due}'::interval)
"""


@dataclass
class StandIn:
    """A processor that says of itself what a test wants."""

    now: ProcessorHealth = WELL
    stats: ProcessorStats = field(default_factory=lambda: ProcessorStats(retries=Counter(StoreUnavailableError=3)))
    appliers: dict[str, Any] = field(default_factory=dict)

    def health(self) -> ProcessorHealth:
        return self.now


@pytest.fixture
async def probe(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore) -> AsyncIterator[Probe]:
    await give_ranges(engine, "mirror/Accounts", 1)
    processor = StandIn()
    given = settings.model_copy(update={"http_port": 0, "mirror_max_lag_s": 30.0})
    readiness = MirrorReadiness(given, engine, cosmos, processor)
    async with serving(given, readiness) as address:
        assert address is not None
        yield Probe(processor, readiness, address)


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (replace(WELL, lease_left_s=-0.1), "no valid lease"),
        (replace(WELL, is_stopping=True), "stopping"),
        (replace(WELL, ranges=(replace(RANGE, lag_s=31.0, behind=7),)), "mirror/Accounts -FF is 31 s behind, about 7"),
        (
            replace(WELL, ranges=(RANGE, replace(RANGE, progress_age_s=31.0, error="StoreUnavailableError"))),
            "not come forward for 31 s, waiting for StoreUnavailableError",
        ),
    ],
)
async def test_what_is_wrong_with_the_processor_is_named_and_it_stays_alive(
    probe: Probe, health: ProcessorHealth, said: str
) -> None:
    assert await probe.ready() == []
    probe.relay.now = health
    [problem] = await probe.ready()
    assert said in problem
    assert (await probe.get("/livez"))[0] == 200


async def test_documents_are_parked_in_order_and_make_it_unready_once_nobody_tries_them(
    probe: Probe, engine: AsyncEngine
) -> None:
    await run(engine, PARKED.format(due="1 hour"))
    assert await probe.ready() == []
    await run(engine, "UPDATE crossfeed.mirror_parked SET retry_at = clock_timestamp() - interval '40 s'")
    [problem] = await probe.ready()
    assert "1 documents are parked, and nobody has tried for 40 s" in problem
    assert (await probe.metrics())["crossfeed_mirror_parked"] == 1


async def test_a_switch_that_is_not_finished_makes_it_unready_until_it_is(probe: Probe, engine: AsyncEngine) -> None:
    async def nothing(*_: object) -> None: ...

    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    switch = await begin_switch(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="somebody", why="a test")
    await flip(engine, switch.id, nothing)
    [problem] = await probe.ready()
    assert "has moved the primary and is not finished; if its process is gone: crossfeed phase resume" in problem
    await finish_switch(engine, switch.id, {})
    assert await probe.ready() == []


async def test_a_feed_without_a_single_range_is_not_ready(probe: Probe, engine: AsyncEngine) -> None:
    await run(engine, "DELETE FROM crossfeed.feed_range")
    [problem] = await probe.ready()
    assert "no feed ranges" in problem


async def test_a_store_that_is_away_is_named(
    probe: Probe, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(cosmos, "ping", fail)
    assert await probe.ready() == ["Cosmos DB: away"]


async def test_a_real_processor_shows_what_it_does(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    processor = Processor(engine, cosmos, mappings, poll_ms=10)
    given = settings.model_copy(update={"http_port": 0})
    readiness = MirrorReadiness(given, engine, cosmos, processor)
    stop = asyncio.Event()
    running = asyncio.create_task(processor.run(stop))
    async with serving(given, readiness) as address:
        assert address is not None
        probe = Probe(processor, readiness, address)
        await cosmos.container(ACCOUNTS).create_item({"id": "a"})
        await until(lambda: processor.stats.applied == 1)
        assert await probe.ready() == []
        metrics = await probe.metrics()
        stop.set()
        await running
    assert metrics["crossfeed_ready"] == 1
    assert metrics["crossfeed_feed_ranges_held"] == metrics["crossfeed_feed_ranges"] == 4
    assert metrics["crossfeed_feed_ranges_unowned"] == 0
    assert metrics["crossfeed_feed_documents_total"] == 1
    assert metrics["crossfeed_feed_outcomes_total mirror applied"] == 1
    assert metrics["crossfeed_feed_lag_seconds mirror/Accounts -FF"] < 5
    assert metrics["crossfeed_feed_behind mirror/Accounts -FF"] == 0
