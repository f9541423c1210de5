"""The relay's HTTP endpoints: alive while the loop turns, ready while messages flow, and every reason is named."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from core.cosmos.breaker import BreakerState
from core.cosmos.client import open_cosmos
from core.cosmos.lanes import ContainerState, WriterState
from core.errors import ConfigurationError
from core.local.cosmos.faults import Operation, Refuse
from core.local.cosmos.faults.rules import Match, Rule
from core.phases import Phase
from core.postgres.switching import begin_switch, cancel_switch
from functions.endpoints import serving
from functions.readiness import Readiness
from outbox.health import RelayHealth
from outbox.relay import open_relay
from outbox.stats import RelayStats
from tests.integration.relay_steps import make_primary, run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings
    from functions.probing import Probe as ReadinessProbe

WELL = RelayHealth(slots=(0, 1), lease_left_s=5.0, oldest_unsent_s=0.0, pass_age_s=0.1, last_error=None)


@dataclass
class StandIn:
    """A relay that says of itself what a test wants."""

    now: RelayHealth = WELL
    writer: WriterState | None = None
    stats: RelayStats = field(default_factory=RelayStats)

    def health(self) -> RelayHealth:
        return self.now

    def writer_state(self) -> WriterState | None:
        return self.writer


class Probe:
    """Asks as an orchestrator does; each answer is fresh."""

    def __init__(self, relay: Any, readiness: ReadinessProbe[Any], address: str) -> None:
        self.relay = relay
        self._readiness = readiness
        self._address = address

    async def get(self, path: str) -> tuple[int, str]:
        self._readiness._verdict.forget()
        async with aiohttp.ClientSession() as session, session.get(self._address + path) as answer:
            return answer.status, await answer.text()

    async def ready(self) -> list[str]:
        async with aiohttp.ClientSession() as session:
            self._readiness._verdict.forget()
            async with session.get(self._address + "/readyz") as answer:
                body = await answer.json()
                assert (answer.status == 200) == body["ready"] == (body["problems"] == [])
                return list(body["problems"])

    async def metrics(self) -> dict[str, float]:
        _, text = await self.get("/metrics")
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


@pytest.fixture
async def probe(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore) -> AsyncIterator[Probe]:
    relay = StandIn()
    given = settings.model_copy(update={"http_port": 0, "relay_max_lag_s": 30.0})
    readiness = Readiness(given, engine, cosmos, relay)
    async with serving(given, readiness) as address:
        assert address is not None
        yield Probe(relay, readiness, address)


@pytest.mark.parametrize("phase", [None, Phase.DUAL_WRITE_POSTGRES_READ])
async def test_a_relay_whose_data_path_works_is_alive_and_ready(
    engine: AsyncEngine, probe: Probe, phase: Phase | None
) -> None:
    if phase is not None:
        await make_primary(engine, phase)
    assert await probe.ready() == []
    assert await probe.get("/livez") == (200, '{"alive":true}')
    assert (await probe.get("/else"))[0] == 404


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (replace(WELL, lease_left_s=-0.1), "no valid lease"),
        (replace(WELL, pass_age_s=31.0, last_error="CosmosUnavailableError"), "31 s ago, waiting for CosmosUnavail"),
        (replace(WELL, pass_age_s=None), "none so far"),
        (replace(WELL, is_stopping=True), "stopping"),
        (replace(WELL, oldest_unsent_s=31.0), "the oldest unsent message is 31 s old"),
    ],
)
async def test_what_is_wrong_with_the_relay_is_named_and_it_stays_alive(
    probe: Probe, health: RelayHealth, said: str
) -> None:
    probe.relay.now = health
    [problem] = await probe.ready()
    assert said in problem
    assert (await probe.get("/livez"))[0] == 200


async def test_a_message_that_nobody_sends_makes_it_unready_except_where_the_phase_sends_nothing(
    engine: AsyncEngine, probe: Probe
) -> None:
    await make_primary(engine)
    await run(
        engine,
        "INSERT INTO accounts (id) VALUES ('a')",
        "UPDATE crossfeed.outbox SET at = at - interval '1 hour'",
    )
    [problem] = await probe.ready()
    assert "is 3600 s old, more than 30" in problem
    probe.relay.now = replace(WELL, waits_for="the phase is dual_write_cosmos_read")
    assert await probe.ready() == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "ALTER TABLE accounts DISABLE TRIGGER crossfeed_capture_update",
            "capture_update of accounts is off",
        ),
        (
            "ALTER TABLE accounts ENABLE REPLICA TRIGGER crossfeed_stamp_insert",
            "stamp_insert of accounts is off",
        ),
        ("DROP TRIGGER crossfeed_refuse_truncate ON accounts", "crossfeed_refuse_truncate of accounts is off"),
        ("ALTER TABLE accounts ENABLE TRIGGER crossfeed_refuse", "crossfeed_refuse of accounts is on"),
        ("ALTER TABLE crossfeed.outbox ENABLE TRIGGER crossfeed_refuse", "crossfeed_refuse of crossfeed.outbox is on"),
    ],
)
async def test_a_trigger_against_the_phase_makes_it_unready(
    engine: AsyncEngine, probe: Probe, statement: str, said: str
) -> None:
    await make_primary(engine)
    await run(engine, statement)
    [problem] = await probe.ready()
    assert said in problem


async def test_a_switch_that_was_left_makes_it_unready_until_it_is_ended(probe: Probe, engine: AsyncEngine) -> None:
    await make_primary(engine)
    assert await probe.ready() == []
    switch = await begin_switch(engine, Phase.DUAL_WRITE_COSMOS_READ, who="somebody", why="a test")
    [problem] = await probe.ready()
    assert "writers are refused since" in problem
    assert f"switch {switch.id} from dual_write_postgres_read to dual_write_cosmos_read" in problem
    assert problem.endswith("crossfeed phase resume, or crossfeed phase cancel")
    await cancel_switch(engine, switch.id, why="a test")
    assert await probe.ready() == []


async def test_an_open_breaker_makes_it_unready(probe: Probe) -> None:
    container = ContainerState(BreakerState.OPEN, 8, 0)
    probe.relay.writer = WriterState({"Accounts": container}, throttled=3, retries=2, postponed=1, request_units=9.5)
    assert await probe.ready() == ["the circuit breaker is open: Accounts"]
    metrics = await probe.metrics()
    assert metrics["crossfeed_cosmos_breaker Accounts"] == 2
    assert metrics["crossfeed_cosmos_request_units_total"] == 9.5


async def test_a_store_that_is_away_or_hangs_makes_it_unready_and_it_stays_alive(
    settings: Settings, engine: AsyncEngine, own_cosmos_server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.probing.TIMEOUT_S", 0.2)
    key = SecretStr(own_cosmos_server.key)
    given = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": key, "http_port": 0}
    )
    async with open_cosmos(given) as store:
        await store.provision([])
        readiness = Readiness(given, engine, store, StandIn())
        async with serving(given, readiness) as url:
            assert url is not None
            probe = Probe(StandIn(), readiness, url)
            assert await probe.ready() == []
            own_cosmos_server.faults.add(
                Rule(do=Refuse(status=503), on=Match(operations=frozenset({Operation.READ_DATABASE})))
            )
            assert [problem[:10] for problem in await probe.ready()] == ["Cosmos DB:"]
            own_cosmos_server.faults.clear()
            async with engine.begin() as holder:  # reading the phase waits behind it
                await holder.exec_driver_sql("LOCK TABLE crossfeed.phase IN ACCESS EXCLUSIVE MODE")
                begun = asyncio.get_running_loop().time()
                assert await probe.ready() == ["Postgres does not answer within 0 s"]
                assert asyncio.get_running_loop().time() - begun < 2
                assert (await probe.get("/livez"))[0] == 200
            assert await probe.ready() == []


async def test_many_probes_cost_the_stores_one_question(settings: Settings, engine: AsyncEngine, cosmos: Any) -> None:
    now = 0.0
    readiness = Readiness(settings, engine, cosmos, StandIn(), clock=lambda: now)
    verdicts = await asyncio.gather(*(readiness.verdict() for _ in range(20)))
    assert all(verdict is verdicts[0] for verdict in verdicts)
    now = 1.5
    assert await readiness.verdict() is not verdicts[0]


async def test_the_figures_of_relay_and_outbox_are_metrics(engine: AsyncEngine, probe: Probe) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) SELECT n::text FROM generate_series(1, 7) n")
    probe.relay.stats.messages = 5
    probe.relay.stats.lags.add(0.25)
    metrics = await probe.metrics()
    assert metrics["crossfeed_ready"] == 1
    assert metrics["crossfeed_relay_messages_total"] == 5
    assert metrics["crossfeed_relay_lag_seconds 0.99"] == 0.25
    assert metrics["crossfeed_relay_slots"] == 2
    assert metrics["crossfeed_outbox_backlog states"] == 7
    assert metrics["crossfeed_outbox_oldest_seconds states"] > 0
    assert metrics["crossfeed_slots_unowned"] == 32
    assert metrics["crossfeed_outbox_partitions"] >= 2


async def test_a_port_that_is_taken_is_named_by_its_setting(
    settings: Settings, engine: AsyncEngine, cosmos: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = settings.model_copy(update={"http_port": taken.getsockname()[1]})
        with pytest.raises(ConfigurationError, match="CROSSFEED_HTTP_PORT: cannot listen on"):
            async with serving(given, Readiness(given, engine, cosmos, StandIn())):
                pass


async def test_without_a_port_nothing_is_served(settings: Settings, engine: AsyncEngine, cosmos: Any) -> None:
    async with serving(settings, Readiness(settings, engine, cosmos, StandIn())) as address:
        assert address is None


async def test_a_running_relay_is_ready_within_its_first_pass_and_not_once_it_is_told_to_stop(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    relay = open_relay(settings, mappings, engine, cosmos)
    readiness = Readiness(settings, engine, cosmos, relay)
    assert not (await readiness.verdict()).is_ready
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))

    async def is_ready() -> bool:
        readiness._verdict.forget()
        return (await readiness.verdict()).is_ready

    await until(is_ready)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    await until(lambda: relay.stats.published == 1)
    stop.set()
    await running
    assert not await is_ready()
    figures = await readiness.registry()
    assert figures.get_sample_value("crossfeed_relay_published_total") == 1
    assert figures.get_sample_value("crossfeed_cosmos_breaker", {"container": "Accounts"}) == 0
