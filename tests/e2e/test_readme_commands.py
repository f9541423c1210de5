"""Whatever the README and the deployment's text tell a reader to type works: it is run here, or named with a reason."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.e2e import documented, documented_world
from tests.e2e.documented import Command

if TYPE_CHECKING:
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run

_E2E = "tests/e2e/test_"
QUICKSTART = f"{_E2E}wheel.py::test_the_wheel_runs_the_readme_in_an_empty_environment"
PROCESSES = f"{_E2E}cli_processes.py::test_relay_and_mirror_end_cleanly_on_a_signal"
LOCAL = (
    f"{_E2E}cli_processes.py::test_local_boots_both_stores_prints_settings_keeps_its_directory_and_leaves_no_process"
)
LOCAL_COSMOS = f"{_E2E}cli_processes.py::test_local_cosmos_prints_its_settings_serves_over_tls_and_keeps_its_file"
DEMO = f"{_E2E}demo.py::test_all_phases_are_walked_through_under_load_and_nothing_is_lost_stale_echoed_or_dead_lettered"
PREPARE = f"{_E2E}deploy.py::test_what_the_compose_file_prepares_lets_relay_and_mirror_run_under_their_own_roles"
WATCHED = f"{_E2E}cli_status.py::test_who_watches_a_terminal_sees_what_changes_until_he_ends_it"
FOLDER = f"{_E2E}deploy.py::test_the_folder_of_the_functions_app_is_complete"

ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(
        [
            "export CROSSFEED_MAPPINGS=customers:MAPPINGS",
            "crossfeed local > settings.env &",
            "until grep -q COSMOS_KEY settings.env; do sleep 1; done",
            "set -a; . ./settings.env; set +a",
            "python customers.py prepare",
            "crossfeed relay &",
            "python customers.py",
            "pip install '.[local]'",
        ],
        QUICKSTART,
    ),
    **dict.fromkeys(["crossfeed relay", "crossfeed mirror"], PROCESSES),
    **dict.fromkeys(["crossfeed local", "crossfeed local --directory DIR"], LOCAL),
    **dict.fromkeys(["crossfeed local cosmos", "crossfeed local cosmos --port N --tls --file PATH"], LOCAL_COSMOS),
    **dict.fromkeys(["crossfeed demo", "crossfeed demo --json"], DEMO),
    **dict.fromkeys(["crossfeed status --watch", "crossfeed status --watch --json"], WATCHED),
    **dict.fromkeys(["crossfeed grant relay relay", "crossfeed grant mirror mirror"], PREPARE),
    **dict.fromkeys(
        [
            "sh deploy/functions.sh",
            "(cd deploy/app && crossfeed provision --functions --dry-run --json) > deploy/bicep/containers.json",
        ],
        FOLDER,
    ),
}
"""Run to the letter by another test, which is in the same run."""

_NO_DOCKER = "needs a Docker engine"
_NO_AZURE = "needs a subscription of Azure, and Azure's own programs"
NOT_HERE: dict[str, str] = {
    "docker build .": _NO_DOCKER,
    "docker compose --file deploy/compose.yaml up --build --detach": _NO_DOCKER,
    "docker compose --file deploy/compose.yaml logs --follow prepare": _NO_DOCKER,
    "export POSTGRES_PASSWORD=$(openssl rand -hex 16)": "for the compose file alone",
    "cd deploy": "for azd alone",
    "azd auth login": _NO_AZURE,
    "azd env new crossfeed": _NO_AZURE,
    "azd env set CROSSFEED_MAPPINGS customers:MAPPINGS": _NO_AZURE,
    "azd env set CROSSFEED_INITIAL_PHASE cosmos_only": _NO_AZURE,
    "azd up": _NO_AZURE,
    "az containerapp job start --name NAME --resource-group GROUP --command crossfeed --args phase plan": _NO_AZURE,
    "az containerapp logs show --name NAME --resource-group GROUP --follow": _NO_AZURE,
    "crossfeed grant … relay": "a shorthand of the table of identities",
    "crossfeed grant … functions": "a shorthand of the table of identities",
    "crossfeed grant ROLE application --entra OBJECT_ID": "Azure's Postgres alone knows managed identities",
}
"""What cannot run on a machine without a container engine and a cloud, each with its reason."""

Way = Callable[[Command], str | None]
"""Runs a command; returns what went wrong, None if nothing did."""


def by_make(command: Command) -> str | None:
    """Look for the target; making it here would be this very run, or minutes more."""
    targets = re.findall(r"^([a-z-]+):", (documented.ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = set(command.text.split()[1:]) - set(targets)
    return f"make knows no {', '.join(unknown)}" if unknown else None


def by_bench(command: Command) -> str | None:
    """Look for the bench among those that there are; what each measures, its own test finds out."""
    unknown = set(command.text.split()[3:]) - {"--help", "--json"} - benches()
    return f"there is no bench {', '.join(unknown)}" if unknown else None


def by_pip(command: Command) -> str | None:
    """Look for the extras; the wheel's own test installs it."""
    project = tomllib.loads((documented.ROOT / "pyproject.toml").read_text())["project"]
    unknown = set(re.findall(r"\[(\w+)\]", command.text)) - project["optional-dependencies"].keys()
    return f"there is no extra {', '.join(unknown)}" if unknown else None


def by_module(command: Command) -> str | None:
    """Look for the program among the tests: what it needs, the network for example, is not always here."""
    module = command.text.split()[2]
    return None if importlib.util.find_spec(module) is not None else f"there is no {module}"


@cache
def benches() -> set[str]:
    """Return the names that `python -m tests.bench --help` gives."""
    asked = [sys.executable, "-m", "tests.bench", "--help"]
    done = subprocess.run(asked, cwd=documented.ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"[a-z]+", done.stdout))


@pytest.mark.timeout(300)  # dozens of commands, one after the other
@pytest.mark.usefixtures("cosmos")
def test_every_command_runs_as_it_is_written(
    run: Run, settings: Settings, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = documented_world.World(settings, mappings, run, monkeypatch)
    world.prepare()
    ways: dict[str, Way] = {
        "crossfeed": world.run,
        "make": by_make,
        "pip install": by_pip,
        "python -m tests.bench": by_bench,
        "python -m": by_module,
    }
    wrong = {}
    for command in documented.commands():
        if command.text in ELSEWHERE or command.text in NOT_HERE:
            continue
        way = next((way for begins, way in ways.items() if command.text.startswith(f"{begins} ")), None)
        problem = "nobody knows how to run it, and it is not named in NOT_HERE" if way is None else way(command)
        if problem is not None:
            wrong[f"{command.page}: {command.text}"] = problem
    assert wrong == {}


def test_whatever_is_named_as_run_elsewhere_or_not_at_all_is_still_in_the_text() -> None:
    written = {command.text for command in documented.commands()}
    assert (ELSEWHERE.keys() | NOT_HERE.keys()) - written == set()


@pytest.mark.parametrize("where", sorted(set(ELSEWHERE.values())))
def test_the_test_that_is_said_to_run_a_command_is_there_and_always_run(where: str) -> None:
    file, _, name = where.partition("::")
    tree = ast.parse((documented.ROOT / file).read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions
    marks = [ast.unparse(one) for one in functions[name].decorator_list]
    assert not [mark for mark in marks if "chaos" in mark and "parametrize" not in mark]
