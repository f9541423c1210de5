"""Real processes: they boot, say where they are, and end cleanly on a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from azure.cosmos import CosmosClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.settings import Settings

CROSSFEED = [sys.executable, "-c", "from functions.cli import main; main()"]


def start(*arguments: str, settings: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFEED_")}
    return subprocess.Popen(
        [*CROSSFEED, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | dict(settings or {}),
        start_new_session=True,
    )


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


def test_local_boots_both_stores_prints_settings_and_leaves_nothing_behind() -> None:
    process = start("local", "--json", settings={"CROSSFEED_MAPPINGS": "core.domain.mappings:MAPPINGS"})
    assert process.stdout is not None
    printed = json.loads(process.stdout.readline())
    with psycopg.connect(printed["CROSSFEED_POSTGRES_DSN"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with CosmosClient(printed["CROSSFEED_COSMOS_ENDPOINT"], printed["CROSSFEED_COSMOS_KEY"]) as client:
        containers = client.get_database_client("crossfeed").list_containers()
        assert sorted(item["id"] for item in containers) == [
            "Accounts",
            "GameSessions",
            "PendingSignups",
            "UserProfiles",
        ]
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, ""), errors
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(printed["CROSSFEED_POSTGRES_DSN"], connect_timeout=2)


def test_local_prints_lines_that_a_shell_can_read_and_dies_with_its_children() -> None:
    process = start("local")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    script = "set -a\n" + "".join(lines) + 'exec "$0" -c "import os; print(os.environ[\'CROSSFEED_POSTGRES_DSN\'])"'
    dsn = subprocess.run(["/bin/sh", "-c", script, sys.executable], capture_output=True, text=True, check=True).stdout
    with psycopg.connect(dsn.strip()):
        pass
    process.kill()
    process.communicate(timeout=20)
    until = time.monotonic() + 15
    while time.monotonic() < until:
        try:
            psycopg.connect(dsn.strip(), connect_timeout=1).close()
        except psycopg.OperationalError:
            return
        time.sleep(0.1)
    pytest.fail("Postgres outlived the process that started it")


def test_ctrl_c_ends_the_demo_with_130() -> None:
    process = start("demo", "--documents-count", "100", "--seconds", "30")
    assert process.stdout is not None
    for line in process.stdout:
        if "Postgres is primary" in line:
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "clean" not in output
