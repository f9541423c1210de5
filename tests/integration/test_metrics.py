"""The metrics of real processes are those of the catalog, and dashboard and alert rules name nothing that they lack."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from changefeed.progress import record_failure
from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.metric_catalog import CATALOG, Process
from core.metrics import CrossfeedCollector
from core.migration.parity_record import record_parity
from core.migration.validation import validate
from core.phases import Phase
from core.postgres.switching import begin_switch, cancel_switch
from core.recorded_phase import LATELY_S, RecordedPhase
from functions.bootstrap import Application, bootstrap
from functions.endpoints import serving
from functions.mirror_readiness import MirrorReadiness
from functions.readiness import Readiness
from tests.integration.relay_steps import make_primary, run, until
from tests.promql import TARGET, read

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest
    from prometheus_client.metrics_core import Metric
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.settings import Settings
    from functions.probing import Probe

ROOT = Path(__file__).parents[2]
OPEN = frozenset({"job", "instance", "entity", "container", "feed", "range", "function", "error"})
"""Labels whose values depend on who uses Crossfeed."""

Served = dict[str, list[dict[str, str]]]
"""The labels of every sample, by its name."""


def samples_of(families: Iterable[Metric]) -> tuple[Served, dict[str, float]]:
    served: Served = {}
    values: dict[str, float] = {}
    for family in families:
        assert family.documentation, family.name
        for sample in family.samples:
            served.setdefault(sample.name, []).append(sample.labels)
            values[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return served, values


async def scraped(settings: Settings, probe: Probe[Any]) -> tuple[Served, dict[str, float]]:
    async with (
        serving(settings, probe) as address,
        aiohttp.ClientSession() as session,
        session.get(f"{address}/metrics") as answer,
    ):
        return samples_of(text_string_to_metric_families(await answer.text()))


def collected(db: Crossfeed) -> tuple[Served, dict[str, float]]:
    registry = CollectorRegistry()
    registry.register(CrossfeedCollector(db))
    return samples_of(text_string_to_metric_families(generate_latest(registry).decode()))


async def busy(application: Application, db: Crossfeed) -> None:
    """Let there be something to say of everything."""
    engine, store = application.engine, application.store
    async with db.unit_of_work() as work:
        await work[Account].add(Account(id="a"))
        await work.commit()
    await until(lambda: application.relay.stats.published == 1)
    await until(lambda: application.processor.stats.documents > 0)
    async with db.unit_of_work() as work:
        assert await work[Account].get_by_id("a") is not None
    application.processor.stats.retries["StoreUnavailableError"] += 1
    await record_parity(engine, await validate(engine, store, application.mappings, application.settings))
    await record_failure(engine, "mirror_Accounts", "batch", "StoreUnavailableError")
    await run(
        engine,
        "INSERT INTO crossfeed.trigger_progress (function, container, batches, documents, newest_ts)"
        " VALUES ('mirror_Accounts', 'Accounts', 1, 7, 1)",
        "INSERT INTO crossfeed.canary (direction, container, part, epoch, written, crossed_at, lag_s)"
        " SELECT 'to_cosmos', '', slot::text, epoch, '1', clock_timestamp() - slot * interval '1 s', slot"
        " FROM crossfeed.slot, crossfeed.phase ON CONFLICT (direction, container, part) DO UPDATE"
        " SET crossed_at = excluded.crossed_at, lag_s = excluded.lag_s",
    )


async def test_processes_serve_the_catalog_and_files_name_only_what_they_serve(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, valkey: EmbeddedValkey
) -> None:
    given = settings.model_copy(
        update={"http_port": 0, "cache_url": SecretStr(valkey.url), "shadow_read_share": 1.0, "relay_poll_ms": 5}
    )
    await make_primary(engine)
    stop = asyncio.Event()
    async with (
        bootstrap(given, engine=engine, store=cosmos) as application,
        Crossfeed.open(given, application.mappings) as db,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(application.relay.run(stop))
        group.create_task(application.processor.run(stop))
        try:
            await busy(application, db)
            assert application.cache is not None
            parts, cache = (application.engine, application.store), application.cache.stats
            relay = await scraped(given, Readiness(given, *parts, application.relay, cache=cache))
            mirror = await scraped(given, MirrorReadiness(given, *parts, application.processor, cache=cache))
            library = collected(db)
        finally:
            stop.set()
    by_process = {Process.RELAY: relay, Process.MIRROR: mirror, Process.APPLICATION: library}
    for process, (served, _) in by_process.items():
        wanted = {name: set(fact.labels) for name, fact in CATALOG.items() if process in fact.processes}
        assert {name: set(labels[0]) for name, labels in served.items()} == wanted, process
    check_values(relay[1], mirror[1], library[1])
    everything: Served = {}
    for served, _ in by_process.values():
        for name, labels in served.items():
            everything.setdefault(name, []).extend(labels)
    check_files(everything)


def check_values(relay: dict[str, float], mirror: dict[str, float], library: dict[str, float]) -> None:
    """Whatever the database says, all say alike; what each has done is its own."""
    for values in (relay, mirror):
        assert values["crossfeed_phase dual_write_postgres_read"] == 1
        assert values["crossfeed_phase postgres_only"] == 0
        assert values["crossfeed_epoch"] == 2
        assert values["crossfeed_draining_seconds"] == values["crossfeed_switch_seconds"] == 0
        assert values["crossfeed_dead_letters to_cosmos"] == values["crossfeed_dead_letters to_postgres"] == 0
        assert values["crossfeed_parity_differences Account"] == 0
        assert values["crossfeed_parity_age_seconds Account"] < 60
        assert values["crossfeed_trigger_documents_total mirror_Accounts"] == 7
        assert values["crossfeed_trigger_failing_seconds mirror_Accounts"] >= 0
        assert 15 <= values["crossfeed_canary_age_seconds to_cosmos"] < 120
        assert values["crossfeed_canary_lag_seconds to_cosmos"] >= 15
    assert relay["crossfeed_relay_published_total"] == 1
    assert relay["crossfeed_lag_seconds to_cosmos"] < 30
    assert mirror["crossfeed_lag_seconds to_postgres"] < 30
    assert relay["crossfeed_cosmos_request_units_total"] > 0
    assert mirror["crossfeed_feed_request_units_total"] > 0
    assert mirror["crossfeed_feed_retries_total StoreUnavailableError"] >= 1
    assert library["crossfeed_phase dual_write_postgres_read"] == 1
    assert library["crossfeed_write_lease_left_seconds"] == 0  # nobody needs one while Postgres is the primary
    assert library["crossfeed_cache_misses_total"] + library["crossfeed_cache_hits_total"] >= 1
    assert library["crossfeed_cache_breaker"] == 0


def check_files(served: Served) -> None:
    """Every metric, label and value that an expression names is one that a process serves."""
    expressions = [*alert_expressions(), *dashboard_expressions()]
    assert len(expressions) > 80
    for where, expression in expressions:
        found = read(expression)
        assert found.selected, where
        assert not found.unknown, f"{where} groups by {set(found.unknown)}, which its metrics do not have"
        for selected in found.selected:
            assert selected.name in served, f"{where} names {selected.name}"
            for label, operator, value in selected.matchers:
                assert label in TARGET | set(CATALOG[selected.name].labels), f"{where}: {selected.name} has no {label}"
                assert operator in {"MatchOp.Equal", "MatchOp.Re"}, where
                values = {labels[label] for labels in served[selected.name]} if label not in OPEN else set()
                assert label in OPEN or any(re.fullmatch(value, one) for one in values), f"{where}: {label}={value}"


def alert_expressions() -> list[tuple[str, str]]:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    return [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]


def dashboard_expressions() -> list[tuple[str, str]]:
    board = json.loads((ROOT / "deploy/grafana/crossfeed.json").read_text(encoding="utf-8"))
    found = [(f"annotation {item['name']}", item["expr"]) for item in board["annotations"]["list"]]
    return found + [
        (f"panel {panel['title']}", target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())
    ]


async def test_a_switch_and_dead_letters_are_figures(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    async with bootstrap(settings, engine=engine, store=cosmos) as application:
        readiness = Readiness(settings, engine, cosmos, application.relay)
        switch = await begin_switch(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
        await run(
            engine,
            "UPDATE crossfeed.switch SET started_at = started_at - interval '90 s',"
            " drained_at = drained_at - interval '60 s'",
            "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reference, reason)"
            " VALUES ('to_postgres', 'refused', 'Account', '[\"a\"]', 'a', '', 'test')",
        )
        _, values = samples_of((await readiness.registry()).collect())
        await cancel_switch(engine, switch.id, why="test")
        _, repeated = samples_of((await readiness.registry()).collect())
        readiness._instance.forget()
        _, after = samples_of((await readiness.registry()).collect())
    assert 60 <= values["crossfeed_draining_seconds"] < 120
    assert 90 <= values["crossfeed_switch_seconds"] < 150
    assert (values["crossfeed_dead_letters to_cosmos"], values["crossfeed_dead_letters to_postgres"]) == (0, 1)
    assert repeated["crossfeed_draining_seconds"] == values["crossfeed_draining_seconds"]  # one question
    assert after["crossfeed_draining_seconds"] == after["crossfeed_switch_seconds"] == 0


async def test_while_postgres_is_silent_a_process_still_says_what_it_knows_itself(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.probing.TIMEOUT_S", 0.2)
    async with bootstrap(settings, engine=engine, store=cosmos) as application:
        readiness = Readiness(settings, engine, cosmos, application.relay)
        async with engine.begin() as holder:
            await holder.exec_driver_sql("LOCK TABLE crossfeed.phase, crossfeed.switch IN ACCESS EXCLUSIVE MODE")
            served, values = samples_of((await readiness.registry()).collect())
    assert values["crossfeed_ready"] == 0
    assert "crossfeed_relay_messages_total" in served
    assert "crossfeed_phase" not in served


async def test_an_application_says_how_long_it_may_write_to_cosmos_db_and_no_phase_that_it_read_long_ago(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    async with Crossfeed.open(settings, mappings) as db:
        async with db.unit_of_work() as work:
            await work[Account].add(Account(id="a"))
            await work.commit()
        _, values = collected(db)
        assert isinstance(db._phases, RecordedPhase)
        db._phases._read_at -= LATELY_S
        served, _ = collected(db)
    assert 0 < values["crossfeed_write_lease_left_seconds"] <= settings.write_lease_s
    assert values["crossfeed_phase dual_write_cosmos_read"] == 1
    assert "crossfeed_phase" not in served
    assert "crossfeed_cache_breaker" not in served


async def test_an_application_on_cosmos_db_alone_says_what_there_is(
    settings: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    alone = settings.model_copy(update={"phase": Phase.COSMOS_ONLY, "postgres_dsn": None})
    async with Crossfeed.open(alone, mappings) as db:
        served, values = collected(db)
    assert served.keys() == {"crossfeed_phase", "crossfeed_epoch"}
    assert values["crossfeed_phase cosmos_only"] == 1
