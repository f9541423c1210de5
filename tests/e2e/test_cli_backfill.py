"""The command `crossfeed backfill`, as an operator uses it, interrupts it and kills it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.postgres.engine import open_engine
from tests.e2e.conftest import environment_of
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import differences, make_primary
from tests.integration.relay_steps import run as write

if TYPE_CHECKING:
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run

ROWS = 120
TO_COSMOS = ("backfill", "--to", "cosmos", "--entity", "Account", "--json")
READ = "SELECT coalesce((counts ->> 'read')::int, 0), expires_at < clock_timestamp() FROM crossfeed.backfill"


@pytest.fixture
def grown(settings: Settings, mappings: Mappings) -> None:
    """A Postgres that is the primary, and a Cosmos DB that has none of it."""

    async def build() -> None:
        async with open_cosmos(settings) as cosmos, open_engine(settings) as engine:
            await cosmos.provision(mappings)
            await make_primary(engine)
            await write(
                engine,
                f"INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, {ROWS}) AS n",
                "UPDATE crossfeed.slot SET seen = pg_current_snapshot()",
            )

    asyncio.run(build())


def until(settings: Settings, read: int) -> None:
    """Wait until a backfill has looked at so many rows."""
    with psycopg.connect(settings.require_postgres(), autocommit=True) as connection:
        while connection.execute(f"{READ} WHERE target = 'cosmos'").fetchall()[0][0] < read:
            time.sleep(0.02)


async def check(settings: Settings, mappings: Mappings) -> None:
    """Every row has arrived, written once."""
    async with open_cosmos(settings) as cosmos, open_engine(settings) as engine:
        known = [ACCOUNTS.identity_of(f"a{number}", f"a{number}") for number in range(1, ROWS + 1)]
        assert await differences(engine, cosmos, ACCOUNTS, known) == []
        assert len(await Steps(engine, cosmos, mappings, ACCOUNTS).watch()) == ROWS


@pytest.mark.chaos  # the kill below is harder; this is about what is said
def test_a_backfill_that_is_interrupted_hands_its_turn_back_and_goes_on(
    run: Run, grown: None, settings: Settings, mappings: Mappings
) -> None:
    def interrupt() -> None:
        until(settings, 40)
        os.kill(os.getpid(), signal.SIGINT)

    operator = threading.Thread(target=interrupt)
    operator.start()
    code, output, errors = run(*TO_COSMOS, "--ru-per-second", "400", backfill_page_size="20")
    operator.join()
    assert (code, output) == (130, "")
    assert "run it again: it goes on" in errors
    code, output, errors = run(*TO_COSMOS, backfill_ru_per_second="100000")
    counts = {"read": ROWS, "sent": ROWS, "refused": 0, "parked": 0}
    assert (code, json.loads(output)) == (0, {"to": "cosmos", "finished": True, "sources": ["Account"], **counts})
    assert f"backfill to cosmos: {ROWS} of {ROWS} (100%)" in errors
    asyncio.run(check(settings, mappings))


def test_a_backfill_that_is_killed_is_gone_on_with_where_it_was(
    run: Run, grown: None, settings: Settings, mappings: Mappings
) -> None:
    told = {f"CROSSFEED_{name.upper()}": value for name, value in environment_of(settings).items() if value}
    told |= {"CROSSFEED_BACKFILL_LEASE_S": "1", "CROSSFEED_BACKFILL_PAGE_SIZE": "20"}
    command = [sys.executable, "-c", "from functions.cli import main; main()", *TO_COSMOS, "--ru-per-second", "300"]
    with subprocess.Popen(command, env=os.environ | told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        until(settings, 40)
        one.kill()
    with psycopg.connect(settings.require_postgres(), autocommit=True) as connection:
        [(killed_at, _)] = connection.execute(f"{READ} WHERE target = 'cosmos'")
        assert 40 <= killed_at < ROWS
        while not connection.execute(f"{READ} WHERE target = 'cosmos'").fetchall()[0][1]:
            time.sleep(0.05)
    code, output, errors = run(*TO_COSMOS, backfill_ru_per_second="100000")
    assert code == 0, errors
    assert json.loads(output)["read"] == ROWS
    asyncio.run(check(settings, mappings))


def test_a_wrong_entity_type_and_a_wrong_phase_are_named(run: Run, settings: Settings, mappings: Mappings) -> None:
    async def build() -> None:
        async with open_cosmos(settings) as cosmos:
            await cosmos.provision(mappings)

    asyncio.run(build())
    code, _, errors = run("backfill", "--to", "postgres", "--entity", "Nobody")
    assert (code, "no mapping is called 'Nobody'" in errors) == (2, True)
    code, _, errors = run("backfill", "--to", "cosmos")
    assert (code, "Cosmos DB is the primary" in errors) == (1, True)
    code, output, _ = run("backfill", "--to", "postgres")
    assert (code, output) == (0, "backfill to postgres: 0 looked at, 0 given to it\n")
