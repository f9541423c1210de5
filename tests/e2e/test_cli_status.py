"""`crossfeed status`: the same as on the page, in a terminal and for scripts; and the page of real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from core.phases import Phase
from core.postgres.engine import open_engine
from tests.e2e.conftest import environment_of
from tests.integration.page_steps import HOSTILE, furnish
from tests.integration.relay_steps import make_primary
from tests.integration.relay_steps import run as execute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings
    from tests.e2e.conftest import Run


COMMAND = (sys.executable, "-c", "from functions.cli import main; main()")


def by_itself(settings: Settings, step: Callable[[AsyncEngine], Awaitable[object]]) -> None:
    """Take a step in a loop of its own: commands run in one of theirs."""

    async def taken() -> None:
        async with open_engine(settings) as engine:
            await step(engine)

    asyncio.run(taken())


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    given = {f"CROSSFEED_{name.upper()}": value for name, value in environment_of(settings).items() if value}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFEED_")}
    return {**kept, **given, "CROSSFEED_LOG_FORMAT": "json"}


@pytest.fixture
async def furnished(engine: AsyncEngine) -> AsyncEngine:
    await furnish(engine)
    return engine


def test_the_status_is_shown_to_people_and_to_programs(run: Run, furnished: AsyncEngine) -> None:
    code, output, _ = run("status", "--json")
    facts = json.loads(output)
    assert (code, facts["ok"], facts["phase"]) == (0, True, "dual_write_postgres_read")
    code, output, _ = run("status")
    assert code == 0
    for part in (
        "Everything flows; 1 thing to look at",
        "3 dead letters wait for a decision  crossfeed dead-letters list",
        "Postgres is the primary, steady",
        "to postgres_only: crossfeed phase plan advance, then crossfeed phase advance",
        "Postgres → Cosmos DB, the last 15 minutes",
        "32 canaries",
        "37 messages in the outbox",
        "relay-1:7",
        "mirror/Accounts 2, mirror/GameSessions 1",
        "GameSession s-9001",
        "2,048,113",
        "last switch: dual_write_cosmos_read to dual_write_postgres_read, done, writers waited 0.4 s, by dana@ops",
    ):
        assert part in output, part
    [lag] = re.findall(r"lag  ([^ ]+)  at most 46 s", output)
    assert len(lag) == 60
    assert "█" in lag
    assert "·" in lag


def test_what_is_broken_is_the_exit_code(run: Run, settings: Settings) -> None:
    code, output, _ = run("status")
    assert (code, "All is well; nothing crosses in this phase" in output) == (0, True)
    by_itself(settings, make_primary)
    code, output, _ = run("status")
    assert (code, "no relay runs: nothing gets to Cosmos DB  crossfeed relay" in output) == (1, True)
    code, output, _ = run("status", "--json")
    assert (code, json.loads(output)["ok"]) == (1, False)
    code, output, errors = run("status", postgres_dsn="postgresql://nobody@127.0.0.1:1/nothing")
    assert (code, output) == (2, "")
    assert "cannot connect to Postgres" in errors


def test_what_a_letter_holds_is_no_markup_and_no_control_code_in_a_terminal(run: Run, settings: Settings) -> None:
    async def put(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(
                "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason)"
                " VALUES ('to_cosmos', 'refused', 'Account', '[]', %(id)s, %(reason)s)",
                {"id": "[red]id[/red]", "reason": f"\x1b]0;owned\x07 {HOSTILE}"},
            )

    by_itself(settings, put)
    code, output, _ = run("status")
    assert code == 0
    assert "[red]id[/red]" in output
    assert "\x1b" not in output
    assert "\x07" not in output


def test_the_last_comparison_is_remembered(run: Run, cosmos: CosmosStore, settings: Settings) -> None:
    by_itself(settings, make_primary)
    assert json.loads(run("status", "--json")[1])["parity"] == []
    by_itself(settings, lambda engine: execute(engine, "INSERT INTO accounts (id) VALUES ('a')"))
    assert run("validate", "--settle", "0")[0] == 1
    facts = json.loads(run("status", "--json")[1])
    found = {one["entity"]: (one["rows"], one["documents"], one["differences"]) for one in facts["parity"]}
    assert (len(found), found["Account"]) == (4, (1, 0, 1))
    assert any(problem["what"].endswith("found differences: 1 of Account") for problem in facts["problems"])
    by_itself(settings, lambda engine: execute(engine, "DELETE FROM accounts", "DELETE FROM crossfeed.tombstone"))
    assert run("validate", "--settle", "0", "--entity", "Account")[0] == 0
    assert len(json.loads(run("status", "--json")[1])["parity"]) == 4


def test_who_watches_a_terminal_sees_what_changes_until_he_ends_it(
    environment: dict[str, str], settings: Settings, furnished: AsyncEngine
) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "status", "--watch", "--every", "0.2"]
    terminal = {**environment, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"}
    with subprocess.Popen(command, env=terminal, stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        seen = b""
        while b"3 dead letters" not in seen:
            seen += os.read(ours, 65536)
        by_itself(settings, lambda engine: execute(engine, "DELETE FROM crossfeed.dead_letter WHERE number = 1"))
        while b"2 dead letters" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the other end is closed
            while os.read(ours, 65536):
                pass
        assert process.wait(timeout=20) == 130
    os.close(ours)
    assert b"\x1b[?1049h" in seen


async def test_relay_and_mirror_serve_their_page_and_write_their_samples(
    environment: dict[str, str], engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    here = {**environment, "CROSSFEED_HTTP_PORT": "0"}

    async def serves(verb: str, direction: str, holders: str) -> None:
        process = await asyncio.create_subprocess_exec(*COMMAND, verb, env=here, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        try:
            async with aiohttp.ClientSession() as session:
                address = await _listening(process.stderr)
                facts: dict[str, Any] = {}
                while not facts or not facts["holders"][holders]:
                    await asyncio.sleep(0.1)
                    async with session.get(f"{address}/status.json") as answer:
                        assert answer.status == 200
                        facts = await answer.json()
                async with session.get(address) as answer:
                    assert f'<p id="who">{verb} ' in await answer.text()
            while not await _sampled(engine, direction):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)
        finally:
            process.terminate()
            await process.stderr.read()
            assert await process.wait() == 0

    async with asyncio.timeout(60):
        await asyncio.gather(
            serves("relay", "to_cosmos", "relays"),
            serves("mirror", "to_postgres", "processors"),
        )


async def _listening(log: asyncio.StreamReader) -> str:
    """Return the address that a process says it listens on."""
    while line := await log.readline():
        if line.startswith(b"{") and (address := json.loads(line).get("address")):
            return str(address)
    pytest.fail("it ended")


async def _sampled(engine: AsyncEngine, direction: str) -> bool:
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT count(*) FROM crossfeed.sample WHERE direction = %(direction)s", {"direction": direction}
        )
        return bool(found.scalar_one())
