"""The compose file agrees with the settings and with itself, and opens nothing to other machines."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from yamllint import linter  # type: ignore[import-untyped]
from yamllint.config import YamlLintConfig  # type: ignore[import-untyped]

from core.settings import Settings
from core.transport import is_local
from functions.cli import app as command_line
from tests.e2e import deployed
from tests.e2e.documented import ROOT

SERVICES = deployed.services()
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "crossfeed"}
_RULES = "{extends: default, rules: {line-length: {max: 120}, document-start: disable, truthy: {check-keys: false}}}"
_KEYS = {
    *("build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "ports"),
    *("read_only", "restart", "security_opt", "stop_grace_period", "tmpfs", "volumes"),
}


@pytest.mark.parametrize("file", ["compose.yaml", "azure.yaml"])
def test_the_files_are_clean(file: str) -> None:
    problems = linter.run((ROOT / "deploy" / file).read_text(), YamlLintConfig(_RULES))
    assert [f"{problem.line}: {problem.desc}" for problem in problems] == []


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_one_that_there_is_and_fits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {name: _without_variables(value) for name, value in OURS[name]["environment"].items()}
    known = {f"CROSSFEED_{field.upper()}" for field in Settings.model_fields}
    assert set(environment) <= known
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = Settings.load()
    assert settings.mappings == "customers:MAPPINGS"


@pytest.mark.parametrize("name", OURS)
def test_every_host_is_a_service_and_may_be_spoken_to_without_tls(name: str) -> None:
    environment = OURS[name]["environment"]
    hosts = {urlsplit(_without_variables(value)).hostname for value in environment.values() if "://" in value}
    assert len(hosts) == 3
    assert hosts == set(environment["CROSSFEED_PLAINTEXT_HOSTS"].split(",")) <= SERVICES.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_known_by_its_keys_waits_for_services_and_is_published_on_loopback_alone(name: str) -> None:
    service: dict[str, Any] = SERVICES[name]
    assert service.keys() <= _KEYS
    assert service.get("depends_on", {}).keys() <= SERVICES.keys()
    for port in service.get("ports", []):
        host, outside, inside = port.split(":")
        assert is_local(host)
        assert outside.isdigit()
        assert inside.isdigit()
    assert not service["image"].endswith(":latest")
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        assert not source.startswith(".") or (ROOT / "deploy" / source).exists()


@pytest.mark.parametrize("name", ["relay", "mirror"])
def test_a_process_has_a_role_of_its_own_and_the_time_to_end_cleanly(name: str) -> None:
    service = OURS[name]
    assert service["command"] == [name]
    assert urlsplit(_without_variables(service["environment"]["CROSSFEED_POSTGRES_DSN"])).username == name
    assert f"CREATE ROLE {name} LOGIN" in (ROOT / "deploy/roles.sql").read_text()
    assert f"crossfeed grant {name} {name}" in OURS["prepare"]["command"][0]
    assert service["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    # A pass has 20 seconds to end: see the Dockerfile.
    assert int(service["stop_grace_period"].removesuffix("s")) >= 30


def test_whatever_is_prepared_are_commands_that_there_are() -> None:
    known = {
        command.name or command.callback.__name__ for command in command_line.registered_commands if command.callback
    }
    ours = re.findall(r"^crossfeed (\S+)", OURS["prepare"]["command"][0], re.MULTILINE)
    assert len(ours) == 4
    assert set(ours) <= known


def _without_variables(value: str) -> str:
    """Put in what compose would: the default of a variable, or something."""
    return re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda match: match[1] or "something", value)
