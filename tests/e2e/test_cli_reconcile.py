"""The command `crossfeed reconcile`, as an operator and a scheduler use it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.postgres.engine import open_engine
from core.progress import Progress
from functions.cli.progress import Lines
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import hard_delete, mirrored

if TYPE_CHECKING:
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run

QUICK = {"reconcile_lag_s": "0", "reconcile_pause_ms": "0"}


@pytest.fixture
def bereaved(settings: Settings, mappings: Mappings) -> None:
    """Twelve accounts, of which somebody has deleted one."""

    async def build() -> None:
        async with open_cosmos(settings) as cosmos, open_engine(settings) as engine:
            await cosmos.provision(mappings)
            steps = Steps(engine, cosmos, mappings, ACCOUNTS)
            await mirrored(steps, *[f"a{number}" for number in range(12)])
            await hard_delete(steps, "a3")

    asyncio.run(build())


def test_a_reconcile_is_tried_out_done_and_finds_nothing_more(run: Run, bereaved: None) -> None:
    only = ("reconcile", "--container", "Accounts")
    code, output, errors = run(*only, "--dry-run", **QUICK)
    assert (code, output) == (0, "Accounts: 11 documents, 12 rows; 1 would be removed\n")
    assert "documents of Accounts: 11 of 12 (92%)" in errors

    code, output, _ = run("reconcile", "--json", **QUICK)
    found = json.loads(output)
    assert (code, found["dry_run"]) == (0, False)
    assert {one["container"]: one["removed"] for one in found["containers"]} == {
        "Accounts": 1,
        "GameSessions": 0,
        "PendingSignups": 0,
        "UserProfiles": 0,
    }

    code, output, _ = run(*only, **QUICK)
    assert (code, output) == (0, "Accounts: 11 documents, 11 rows; in step\n")

    code, _, errors = run("reconcile", "--container", "Nowhere")
    assert (code, "Nowhere" in errors) == (2, True)


def test_too_much_is_refused_with_the_flag_that_allows_it(run: Run, bereaved: None, settings: Settings) -> None:
    async def empty() -> None:
        async with open_cosmos(settings) as cosmos:
            for number in range(12):
                if number != 3:
                    await cosmos.container(ACCOUNTS).delete_item(f"a{number}", f"a{number}")

    asyncio.run(empty())
    code, output, errors = run("reconcile", "--container", "Accounts", **QUICK)
    assert (code, output) == (1, "")
    assert "Accounts: 12 of 12 rows; at most 10% are removed" in errors
    code, output, _ = run("reconcile", "--container", "Accounts", "--max-removed-share", "1", **QUICK)
    assert (code, output) == (0, "Accounts: 0 documents, 12 rows; 12 removed\n")


def interrupt_between_the_looks(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            [(waits,)] = connection.execute("SELECT bool_and(read_at IS NOT NULL) FROM crossfeed.reconcile_doubt")
            if waits:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)


def test_ctrl_c_ends_it_cleanly_and_says_that_it_goes_on(run: Run, bereaved: None, settings: Settings) -> None:
    operator = threading.Thread(target=interrupt_between_the_looks, args=(settings.require_postgres(),))
    operator.start()
    code, output, errors = run("reconcile", "--container", "Accounts", reconcile_lag_s="3600")
    operator.join()
    assert (code, output) == (130, "")
    assert "run it again: it goes on" in errors
    # Its turn was handed back, and what it had found is still known: the second look is all that is left.
    code, output, errors = run("reconcile", "--container", "Accounts", "--json", **QUICK)
    assert (code, json.loads(output)["containers"][0]["removed"]) == (0, 1)
    assert "documents of" not in errors


def test_a_pipe_gets_a_line_now_and_then_with_speed_and_the_time_that_is_left() -> None:
    said: list[str] = []
    now = 100.0
    lines = Lines(said.append, lambda: now)
    for done in range(500, 2001, 10):
        lines.report(Progress("documents of Accounts", done, 2000))
        now += 0.125
    lines.report(Progress("rows", 7, 0))
    assert said == [
        "documents of Accounts: 500 of 2,000 (25%)",
        "documents of Accounts: 900 of 2,000 (45%), 80/s, 0:00:14 left",
        "documents of Accounts: 1,300 of 2,000 (65%), 80/s, 0:00:09 left",
        "documents of Accounts: 1,700 of 2,000 (85%), 80/s, 0:00:04 left",
        "documents of Accounts: 2,000 of 2,000 (100%), 80/s",
        "rows: 7",
    ]
