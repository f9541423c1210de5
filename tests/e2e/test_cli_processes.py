"""Real processes: they boot, say where they are, and end cleanly on a signal."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from azure.cosmos import PartitionKey

from core.domain.mappings import ACCOUNTS
from core.local.cosmos import EMULATOR_KEY
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import hard_delete, mirrored
from tests.sync_sdk import sync_client

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

CROSSFEED = [sys.executable, "-c", "from functions.cli import main; main()"]


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """End what a test that failed half-way has started; what these processes have started ends with them."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def start(*arguments: str, settings: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFEED_")}
    process = subprocess.Popen(
        [*CROSSFEED, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | dict(settings or {}),
        start_new_session=True,
    )
    _started.append(process)
    return process


def environment_of(settings: Settings) -> dict[str, str]:
    assert settings.postgres_dsn is not None
    assert settings.cosmos_key is not None
    return {
        "CROSSFEED_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "CROSSFEED_COSMOS_ENDPOINT": settings.require_cosmos(),
        "CROSSFEED_COSMOS_KEY": settings.cosmos_key.get_secret_value(),
        "CROSSFEED_COSMOS_DATABASE": settings.cosmos_database,
        "CROSSFEED_MAPPINGS": str(settings.mappings),
    }


def wait_for(process: subprocess.Popen[str], event: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if event in line:
            return
    pytest.fail(f"{event} never came; exit code {process.wait(5)}")


def test_relay_and_mirror_end_cleanly_on_a_signal(settings: Settings, cosmos: object) -> None:
    processes = {name: start(name, settings=environment_of(settings)) for name in ("relay", "mirror")}
    for name, process in processes.items():
        wait_for(process, "relay.started" if name == "relay" else "processor.started")
    time.sleep(0.2)
    processes["relay"].send_signal(signal.SIGTERM)
    processes["mirror"].send_signal(signal.SIGINT)
    for name, process in processes.items():
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, output) == (0, ""), (name, errors)
        assert "Traceback" not in errors


@pytest.fixture
def kept_directory() -> Iterator[Path]:
    # Not tmp_path: pytest makes that private to root, whose Postgres runs as another user.
    directory = Path(tempfile.mkdtemp(prefix="crossfeed-test-"))
    directory.chmod(0o755)
    yield directory / "stores"
    shutil.rmtree(directory)


def by_a_shell(lines: list[str]) -> dict[str, str]:
    """Return the environment that a shell has after it read the lines."""
    script = "set -a\n" + "".join(lines) + 'exec "$0" -c "import json, os; print(json.dumps(dict(os.environ)))"'
    command = ["/bin/sh", "-c", script, sys.executable]
    environment: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return environment


def test_local_boots_both_stores_prints_settings_keeps_its_directory_and_leaves_no_process(
    kept_directory: Path,
) -> None:
    process = start("local", "--directory", str(kept_directory))
    assert process.stdout is not None
    printed = by_a_shell([process.stdout.readline() for _ in range(4)])
    with redis.Redis.from_url(printed["CROSSFEED_CACHE_URL"]) as cache:
        assert cache.ping()
    dsn = printed["CROSSFEED_POSTGRES_DSN"]
    execute(dsn, "CREATE TABLE kept AS SELECT 1 AS n")
    with sync_client(printed["CROSSFEED_COSMOS_ENDPOINT"], printed["CROSSFEED_COSMOS_KEY"]) as client:
        client.create_database("kept").create_container("items", PartitionKey("/id")).create_item({"id": "a"})
        process.kill()
        process.communicate(timeout=20)
    wait_for_the_end_of(dsn)

    mapped = {"CROSSFEED_MAPPINGS": "core.domain.mappings:MAPPINGS"}
    process = start("local", "--directory", str(kept_directory), "--json", settings=mapped)
    assert process.stdout is not None
    printed = json.loads(process.stdout.readline())
    execute(printed["CROSSFEED_POSTGRES_DSN"], "SELECT n FROM kept")
    with sync_client(printed["CROSSFEED_COSMOS_ENDPOINT"], printed["CROSSFEED_COSMOS_KEY"]) as client:
        client.get_database_client("kept").get_container_client("items").read_item("a", "a")
        containers = [found["id"] for found in client.get_database_client("crossfeed").list_containers()]
    own = ["crossfeed-control", "crossfeed-events"]
    assert sorted(containers) == ["Accounts", "GameSessions", "PendingSignups", "UserProfiles", *own]
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, ""), errors
    wait_for_the_end_of(printed["CROSSFEED_POSTGRES_DSN"])


async def test_a_mirror_finds_by_itself_what_is_in_no_feed_and_rests_where_it_is_told_to(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    steps = Steps(engine, cosmos, mappings, ACCOUNTS)
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    quick = {"CROSSFEED_RECONCILE_EVERY_S": "0.2", "CROSSFEED_RECONCILE_LAG_S": "0"}
    told = environment_of(settings) | quick
    idle = start("mirror", settings=told | {"CROSSFEED_MIRROR_RECONCILE": "false"})
    await asyncio.to_thread(wait_for, idle, "processor.started")
    await asyncio.sleep(0.5)
    assert await steps.count("accounts") == 2
    process = start("mirror", settings=told)
    async with asyncio.timeout(20):
        while await steps.count("accounts") == 2:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.05)
    assert await steps.content("a") is not None
    for one in (idle, process):
        one.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(one.communicate, timeout=20)
        assert one.returncode == 0, errors


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def wait_for_the_end_of(dsn: str) -> None:
    until = time.monotonic() + 15
    while time.monotonic() < until:
        try:
            psycopg.connect(dsn, connect_timeout=1).close()
        except psycopg.OperationalError:
            return
        time.sleep(0.1)
    pytest.fail("Postgres outlived the process that started it")


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_local_cosmos_prints_its_settings_serves_over_tls_and_keeps_its_file(tmp_path: Path) -> None:
    common = ("local", "cosmos", "--tls", "--file", str(tmp_path / "account.sqlite"))
    first = start(*common, "--host", "localhost")
    assert first.stdout is not None
    printed = by_a_shell([first.stdout.readline() for _ in range(2)])
    assert printed["CROSSFEED_COSMOS_ENDPOINT"].startswith("https://localhost:")
    assert printed["CROSSFEED_COSMOS_KEY"] == EMULATOR_KEY
    with sync_client(printed["CROSSFEED_COSMOS_ENDPOINT"], EMULATOR_KEY) as client:
        client.create_database("kept")
        first.send_signal(signal.SIGTERM)
        assert (*first.communicate(timeout=20), first.returncode) == ("", "", 0)

    second = start(*common, "--host", "0.0.0.0", "--json")
    assert second.stdout is not None
    told = json.loads(second.stdout.readline())
    assert told.keys() == {"CROSSFEED_COSMOS_ENDPOINT", "CROSSFEED_COSMOS_KEY"}
    with sync_client(told["CROSSFEED_COSMOS_ENDPOINT"], told["CROSSFEED_COSMOS_KEY"]) as client:
        assert [found["id"] for found in client.list_databases()] == ["kept"]
    second.send_signal(signal.SIGINT)
    output, errors = second.communicate(timeout=20)
    assert (second.returncode, output) == (0, "")
    [line] = errors.splitlines()
    assert line.startswith("warning: 0.0.0.0 can be reached from other machines, and the key is public")


def test_ctrl_c_ends_the_demo_with_130() -> None:
    process = start("demo", "--documents-count", "60", "--seconds", "5")
    assert process.stdout is not None
    for line in process.stdout:
        if "step to dual_write_postgres_read" in line:
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "clean" not in output
