"""The templates for Azure can be parsed, and name what the code names: settings, containers, rights, phases."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pycep
import pytest
import yaml

from core.cosmos.containers import OwnContainers, planned
from core.phases import Phase
from core.postgres.rights import Process
from core.settings import Settings
from functions.triggers import APP_SETTINGS
from tests.e2e import deployed
from tests.e2e.deployed import BICEP, bicep
from tests.e2e.documented import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MODULES: dict[str, Any] = {
    path.stem: pycep.BicepParser().parse(text=path.read_text()) for path in sorted(BICEP.glob("*.bicep"))
}
MAIN = MODULES["main"]
_OF_SETTINGS = re.compile(r"\bCROSSFEED_[A-Z_]+\b")
_NOT_OURS = {"CROSSFEED_PREPARE", "CROSSFEED_INITIAL_PHASE"}
"""What only azd's environment knows."""


@pytest.mark.parametrize("name", sorted(MODULES["main"]["modules"]))
def test_a_module_gets_the_parameters_that_it_asks_for_and_no_others(name: str) -> None:
    used: dict[str, Any] = MAIN["modules"][name]
    asked = MODULES[used["detail"]["path"].removesuffix(".bicep")]["parameters"]
    config = used["config"]
    given = config.get("config", config)["params"]  # one more level where there is a condition
    assert given.keys() <= asked.keys()
    assert {one for one, facts in asked.items() if facts["default"] is None} <= given.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_parameter_is_used_and_every_output_that_is_read_is_given(name: str) -> None:
    text = bicep(name)
    for parameter in MODULES[name].get("parameters", {}):
        assert len(re.findall(rf"\b{parameter}\b", text)) > 1, f"{parameter} is not used"
    for module, output in re.findall(r"\b(\w+)!?\.outputs\.(\w+)", text):
        assert output in MODULES[module].get("outputs", {}), f"{module} has no output {output}"


def test_azds_parameters_are_the_templates() -> None:
    given = json.loads((BICEP / "main.parameters.json").read_text())["parameters"]
    assert given.keys() <= MAIN["parameters"].keys()
    required = {name for name, facts in MAIN["parameters"].items() if facts["default"] is None}
    assert required <= given.keys()
    phases = next(one for one in MAIN["parameters"]["initialPhase"]["decorators"] if one["type"] == "allowed")
    assert phases["argument"] == [phase.label for phase in Phase]


@pytest.mark.parametrize(
    "file", [*sorted(BICEP.glob("*.bicep")), BICEP / "main.parameters.json"], ids=lambda path: path.name
)
def test_every_setting_that_is_named_is_one_that_there_is(file: Path) -> None:
    known = {f"CROSSFEED_{field.upper()}" for field in Settings.model_fields}
    named = set(_OF_SETTINGS.findall(re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.MULTILINE)))
    assert named - _NOT_OURS <= known


def test_the_functions_app_is_told_what_its_host_reads_and_nothing_in_another_way() -> None:
    settings = deployed.app_settings(mappings="customers:MAPPINGS")
    example = json.loads((ROOT / "local.settings.example.json").read_text())["Values"]
    ours = {name for name in example if name.startswith("CROSSFEED_")}
    assert ours == {name for name in settings if name.startswith("CROSSFEED_")}
    for name in APP_SETTINGS:
        assert f"CROSSFEED_{name.upper()}" in settings
        if name.endswith(("_schedule", "_container")):
            assert settings[f"CROSSFEED_{name.upper()}"] == Settings.model_fields[name].default
    # Of Flex Consumption these are properties of the app.
    assert {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"}.isdisjoint(settings)
    assert {"AzureWebJobsStorage__accountName", "COSMOS__accountEndpoint", "AZURE_CLIENT_ID"} <= settings.keys()


def test_the_containers_are_those_of_the_mappings_and_crossfeeds_own() -> None:
    containers = json.loads((BICEP / "containers.json").read_text())
    own = OwnContainers.of(Settings.load())
    facts = [plan.facts() for plan in planned([], [*own, own.leases])]
    assert [container for container in containers if container["name"].startswith("crossfeed-")] == facts
    assert all(container["defaultTtl"] == -1 for container in containers)
    for own_container in (own.control, own.leases):
        assert f"/colls/{own_container.name}'" in bicep("cosmos")


def test_no_store_takes_keys_or_passwords_or_a_second_write_region() -> None:
    cosmos, postgres = bicep("cosmos"), bicep("postgres")
    for line in ("disableLocalAuth: true", "enableMultipleWriteLocations: false", "publicNetworkAccess: 'Disabled'"):
        assert line in cosmos
    for line in ("passwordAuth: 'Disabled'", "activeDirectoryAuth: 'Enabled'", "publicNetworkAccess: 'Disabled'"):
        assert line in postgres
    assert "allowSharedKeyAccess: false" in bicep("functions")
    assert "adminUserEnabled: false" in bicep("relay")
    for dsn in re.findall(r"postgresql://[^']*", bicep("relay") + bicep("functions")):
        assert "sslmode" not in dsn, "verify-full is what the program does by itself"


def test_nobody_but_markers_and_leases_can_be_deleted_by_a_process() -> None:
    carrier, keeper = re.findall(r"dataActions: \[(.*?)\]", bicep("cosmos"), re.DOTALL)
    assert "/delete'" not in carrier
    assert "*" not in carrier
    assert "/*'" in keeper
    for who, role, scope in re.findall(r"who: (\w+), role: (\w+(?:\.id)?), scope: (\S+)", bicep("cosmos")):
        assert role != "keeper.id" or "/colls/" in scope
        assert role != "contributor" or who == "ownerPrincipalId"
    deletes = {
        str(path.relative_to(ROOT))
        for package in ("core/cosmos", "outbox", "changefeed", "functions")
        for path in (ROOT / package).rglob("*.py")
        if ".delete_item(" in path.read_text() or ".delete_all_items" in path.read_text()
    }
    # The relays' markers are in crossfeed-control; an erasure is an operator's.
    assert deletes == {"core/cosmos/markers.py", "core/cosmos/event_documents.py"}


def test_the_job_grants_the_rights_of_processes_that_there_are() -> None:
    granted = re.findall(r"crossfeed grant \$\{(\w+)\.name\} (\w+) --entra \$\{(\w+)\.principalId\}", bicep("relay"))
    assert [(of, of, of) for of, *_ in granted] == granted
    assert {Process[process.upper()] for _, process, _ in granted} == {Process.RELAY, Process.FUNCTIONS}


def test_keda_asks_the_question_that_the_schema_answers_and_keeps_a_relay() -> None:
    assert "query: 'SELECT crossfeed.backlog(100000)'" in bicep("relay")
    assert "SELECT crossfeed.backlog(100000)" in (ROOT / "README.md").read_text()
    assert MAIN["parameters"]["relayMinReplicas"]["default"] >= 1


def test_azd_finds_what_the_templates_tag() -> None:
    project = yaml.safe_load((ROOT / "deploy/azure.yaml").read_text())
    assert project["infra"] == {"provider": "bicep", "path": "bicep"}
    tagged = set(re.findall(r"'azd-service-name': '(\w+)'", bicep("relay") + bicep("functions")))
    assert tagged == project["services"].keys()
    assert (ROOT / "deploy" / project["services"]["relay"]["docker"]["path"]).exists()
    needed = set(re.findall(r"\{([A-Z_]+):\?\}", (ROOT / "deploy/prepare.sh").read_text()))
    outputs = set(re.findall(r"^output (\w+)", bicep("main"), re.MULTILINE))
    assert needed - {"SERVICE_RELAY_IMAGE_NAME"} <= outputs  # that one azd sets by itself


@pytest.mark.parametrize("text", ["resource x 'a@1' = {", "param a string =", "var b = [1, 2"])
def test_what_is_no_bicep_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="Unexpected"):
        pycep.BicepParser().parse(text=text)
