"""What the worker tells the host of the functions: whatever changes here changes what runs in Azure."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import azure.functions as func
import pytest
import sqlalchemy as sa

from core.entity import Entity
from core.errors import ConfigurationError
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.settings import Settings
from functions import feeds
from functions.trigger_batches import BATCH_S
from functions.triggers import APP_SETTINGS, check_app_settings, indexed, triggers_of
from tests.functions.host import ROOT
from tests.functions.worker import started

if TYPE_CHECKING:
    from tests.functions.conftest import Installation
    from tests.functions.host import Worker

_TABLES = sa.MetaData()
_GOLDEN = Path(__file__).parent / "golden.json"


def _environment(**changed: str) -> dict[str, str]:
    """Return settings of stores that are not there: whoever only describes the functions needs none."""
    settings = Settings.load()
    schedules = {f"CROSSFEED_{name.upper()}": str(getattr(settings, name)) for name in APP_SETTINGS}
    return {**schedules, "CROSSFEED_MAPPINGS": "core.domain.mappings:MAPPINGS", **changed}


@pytest.fixture
def worker(installation: Installation) -> Worker:
    return installation.worker


def _triggers(worker: Worker) -> dict[str, dict[str, Any]]:
    return {
        name: {**binding, "retry": function["retry"]}
        for name, function in worker.functions.items()
        for binding in function["bindings"]
        if binding["type"] == "cosmosDBTrigger"
    }


def test_the_real_worker_library_is_driven_where_it_runs(worker: Worker) -> None:
    assert worker.uses_library == (sys.version_info >= (3, 13))


def test_the_functions_are_those_of_the_golden_file(worker: Worker) -> None:
    assert worker.init == {"status": 1}
    assert worker.functions == {item["name"]: item for item in json.loads(_GOLDEN.read_text())}


def test_what_is_deployed_is_enough_and_holds_neither_tests_nor_settings(installation: Installation) -> None:
    assert installation.worker.elsewhere == []
    deployed = {path.name for path in installation.deployed.iterdir()}
    packages = {"changefeed", "core", "functions", "migrations", "outbox"}
    assert deployed - {".python_packages"} == {
        *packages,
        "function_app.py",
        "host.json",
        "requirements.txt",
        ".funcignore",
    }


def test_every_trigger_retries_without_an_end(worker: Worker) -> None:
    triggers = _triggers(worker)
    assert len(triggers) == 5
    for name, trigger in triggers.items():
        assert trigger["retry"]["max_retry_count"] == "-1", f"{name} loses the batch that it fails at"
        assert trigger["retry"]["strategy"] == "exponential_backoff"
        assert trigger["retry"]["minimum_interval"] < trigger["retry"]["maximum_interval"]


def test_every_trigger_has_leases_of_its_own_and_reads_from_the_beginning(worker: Worker) -> None:
    triggers = _triggers(worker).values()
    assert len({trigger["leaseContainerPrefix"] for trigger in triggers}) == len(triggers)
    for trigger in triggers:
        assert trigger["startFromBeginning"] is True
        assert trigger["connection"] == trigger["leaseConnection"] == "COSMOS"
        assert trigger["createLeaseContainerIfNotExists"] is False


def test_the_size_of_a_batch_is_a_setting(mappings: Mappings) -> None:
    settings = Settings.load(mirror_page_size=37)
    app = func.FunctionApp()
    app.register_functions(feeds.blueprint(settings, triggers_of(settings, mappings, None)))
    for function in app.get_functions():
        [binding] = map(json.loads, function.get_raw_bindings())
        assert binding["maxItemsPerInvocation"] == 37


def test_hard_deletes_have_a_trigger_of_their_own_where_the_library_knows_their_feed(mappings: Mappings) -> None:
    settings = Settings.load(mirror_all_versions=True)
    app = func.FunctionApp()
    app.register_functions(feeds.blueprint(settings, triggers_of(settings, mappings, None)))
    found = {item.get_function_name(): item for item in app.get_functions()}
    knows = "change_feed_mode" in inspect.signature(app.cosmos_db_trigger).parameters
    assert len(found) == (8 if knows else 4)
    for name, function in found.items():
        [binding] = map(json.loads, function.get_raw_bindings())
        assert (function.get_settings_dict("retry_policy") or {}).get("max_retry_count") == "-1"
        is_of_deletes = str(name).startswith("deletes_")
        assert binding.get("changeFeedMode") == ("AllVersionsAndDeletes" if is_of_deletes else None)
        assert "startFromBeginning" not in binding or not is_of_deletes, "that feed has no beginning"


async def test_an_import_error_is_reported_and_no_function_is_offered_so_that_no_lease_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in _environment(CROSSFEED_MAPPINGS="nowhere.to_be:FOUND").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "function_app", raising=False)
    monkeypatch.syspath_prepend(ROOT)
    hello = await started(str(ROOT))
    assert hello["init"]["status"] == 0
    assert "CROSSFEED_MAPPINGS='nowhere.to_be:FOUND': cannot import nowhere" in hello["init"]["exception"]["message"]
    assert hello["functions"] == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"CROSSFEED_MAPPINGS": "core.domain.mappings:NOTHING"}, "has no such attribute"),
        ({"CROSSFEED_MIRROR_PAGE_SIZE": "many"}, "CROSSFEED_MIRROR_PAGE_SIZE"),
        ({"CROSSFEED_CONSUMERS": "core.domain.welcomes:NOBODY"}, "CROSSFEED_CONSUMERS"),
        ({"CROSSFEED_LEASE_CONTAINER": None, "CROSSFEED_RETENTION_SCHEDULE": None}, "LEASE_CONTAINER, CROSSFEED_RETEN"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_offered(
    changed: dict[str, str | None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**_environment(), **changed}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        indexed()


def test_functions_have_names_that_the_host_takes_whatever_the_containers_are_called() -> None:
    names = ["Accounts", "accounts", "Köln & Bonn", "a.b", "a_b", "x" * 255]
    settings = Settings.load()
    found = triggers_of(settings, Mappings([_mapping(name) for name in names]), None)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,126}", trigger.function) for trigger in found)
    assert len({trigger.function.lower() for trigger in found}) == len({item.lease_prefix for item in found}) == 6
    alone = triggers_of(settings, Mappings([_mapping("Accounts")]), None)[0]
    assert alone.function == "mirror_Accounts"
    assert alone.lease_prefix in {trigger.lease_prefix for trigger in found}, "a neighbour does not move its leases"


@pytest.mark.parametrize("container", ["100%", "{id}"])
def test_a_container_that_the_host_would_take_for_an_expression_is_refused(container: str) -> None:
    everything = {name: getattr(Settings.load(), name) for name in APP_SETTINGS}
    with pytest.raises(ConfigurationError, match="cannot be told"):
        check_app_settings(Settings.load(**everything), Mappings([_mapping(container)]))


def _mapping(container: str) -> EntityMapping[Any]:
    number = len(_TABLES.tables)
    table = sa.Table(f"t{number}", _TABLES, sa.Column("id", sa.Text, primary_key=True))
    model = type(f"T{number}", (Entity,), {"__qualname__": f"T{number}"})
    return EntityMapping(model, table=table, container=container, partition_key="/id")


def test_host_json_gives_a_batch_its_time_and_leaves_dates_alone() -> None:
    host = json.loads((ROOT / "host.json").read_text())
    hours, minutes, seconds = map(int, host["functionTimeout"].split(":"))
    assert (hours * 60 + minutes) * 60 + seconds > BATCH_S + 60
    assert host["extensions"]["cosmosDB"]["serializerSettings"]["dateParseHandling"] == "None"
    assert host["extensionBundle"]["version"] == "[4.*, 5.0.0)"
    assert "retry" not in host, "a policy at the root is none of a function's"


def test_the_example_of_local_settings_names_all_that_is_needed_and_no_secret(worker: Worker) -> None:
    values = json.loads((ROOT / "local.settings.example.json").read_text())["Values"]
    text = json.dumps([function["bindings"] for function in worker.functions.values()])
    for name in APP_SETTINGS:
        assert f"CROSSFEED_{name.upper()}" in values
        assert f"%CROSSFEED_{name.upper()}%" in text
    assert {"COSMOS__accountEndpoint", "CROSSFEED_MAPPINGS", "CROSSFEED_POSTGRES_DSN"} <= set(values)
    assert not [name for name in values if "KEY" in name.upper()]
