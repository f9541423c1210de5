"""The demo from its first write to its verdict, and that its verdict finds what is planted."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from sqlalchemy import text

from core.envelope import Origin
from core.local.stores import LocalStores
from core.postgres.engine import open_engine
from core.postgres.switch_record import switch_history
from functions.cli import main
from functions.demo import run
from functions.demo.board import Board
from functions.demo.plans import DomainPlan
from functions.demo.run import Sabotage, Timing, run_demo
from functions.demo.verdict import Verdict
from functions.demo.view import show_verdict, showing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from core.settings import Settings
    from functions.demo.stores import Stores
    from tests.stores import PostgresServer

QUICK = Timing(drain_s=15, silence_s=0.7)


WALK = [
    "cosmos_only",
    "dual_write_cosmos_read",
    "dual_write_postgres_read",
    "postgres_only",
    "dual_write_postgres_read",
    "dual_write_cosmos_read",
    "cosmos_only",
]


async def test_all_phases_are_walked_through_under_load_and_nothing_is_lost_stale_echoed_or_dead_lettered(
    settings: Settings, tmp_path: Path
) -> None:
    board = Board()
    verdict = await run_demo(settings, DomainPlan(200, 1.0), board, export_to=tmp_path, timing=QUICK)
    assert (verdict.lost, verdict.stale, verdict.echoed, verdict.dead_lettered) == (0, 0, 0, 0)
    assert verdict.is_clean
    assert verdict.carried == verdict.written == verdict.creates + verdict.updates + verdict.deletes
    assert verdict.creates > 200
    assert verdict.updates > 10
    assert verdict.deletes > 1
    for lag in verdict.lag_ms.values():
        assert 0 < lag["p50"] <= lag["p99"]
    files = sorted(file.name for file in (tmp_path / "postgres").iterdir())
    assert files == ["Accounts.json", "GameSessions.json", "PendingSignups.json", "UserProfiles.json"]
    for name in files:
        exported = (tmp_path / "postgres" / name).read_bytes()
        assert exported == (tmp_path / "cosmos" / name).read_bytes()
        assert len(json.loads(exported)) > 10
    async with open_engine(settings) as engine, engine.connect() as connection:
        steps = await switch_history(connection, 20)
    assert [step.phase.label for step in reversed(steps)] == WALK
    assert [step.switch is not None for step in reversed(steps)] == [False, False, True, False, False, True, False]
    shown = [line for line in board.finished if line.startswith("step to ")]
    assert [line.split()[2].rstrip(",") for line in shown] == WALK[1:]
    assert ["writers waited" in line for line in shown] == [False, True, False, False, True, False]


def one(table: str) -> str:
    return f"ctid = (SELECT min(ctid) FROM {table})"


LOSE = f"DELETE FROM accounts WHERE {one('accounts')}"
KEEP_OLD_CONTENT = f"UPDATE user_profiles SET name = 'old' WHERE {one('user_profiles')}"
KEEP_OLD_STAMP = f"UPDATE accounts SET crossfeed_epoch = 1 WHERE {one('accounts WHERE crossfeed_epoch > 2')}"


def by_the_mirror(*statements: str) -> Callable[[Stores, Origin], Awaitable[None]]:
    """Change Postgres as a mirror would, unseen by capture, at the end, when Cosmos DB is the primary."""

    async def change(stores: Stores, primary: Origin) -> None:
        if primary is Origin.COSMOS:
            async with stores.engine.begin() as connection:
                await connection.execute(text("SELECT set_config('crossfeed.mirroring', 'on', true)"))
                for statement in statements:
                    assert (await connection.execute(text(statement))).rowcount == 1

    return change


async def an_echo_through_postgres(stores: Stores, primary: Origin) -> None:
    """Write a row as it is without the mirror's setting, as a broken mirror would: the change goes back."""
    if primary is Origin.POSTGRES:
        async with stores.engine.begin() as connection:
            await connection.execute(text(f"UPDATE pending_signups SET id = id WHERE {one('pending_signups')}"))


async def an_echo_through_cosmos(stores: Stores, primary: Origin) -> None:
    """Write a document of ours again as it is: only who listens can tell, the stores are equal as before."""
    if primary is Origin.COSMOS:
        container = stores.cosmos.container_named("GameSessions")  # no account: those are planted stale
        query = "SELECT TOP 1 * FROM c WHERE c.crossfeed.epoch > 2 AND NOT IS_DEFINED(c.crossfeed.kind)"
        [document] = [item async for item in container.query_items(query)]
        await container.upsert_item(document)


async def echoes(stores: Stores, primary: Origin) -> None:
    await an_echo_through_postgres(stores, primary)
    await an_echo_through_cosmos(stores, primary)


@pytest.fixture
async def empty_database(postgres_server: PostgresServer, settings: Settings) -> AsyncIterator[str]:
    """A database without anything in it, as the demo finds it."""
    name = f"empty_{settings.cosmos_database}"
    yield await postgres_server.create_database(name)
    await postgres_server.drop_database(name)


@pytest.fixture
def command(
    settings: Settings, empty_database: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any]]:
    """Run `crossfeed demo --json` on empty stores; return the exit code and what was printed."""

    @asynccontextmanager
    async def these() -> AsyncIterator[LocalStores]:
        assert settings.cosmos_key is not None
        yield LocalStores(empty_database, settings.require_cosmos(), settings.cosmos_key.get_secret_value())

    def run_command(*arguments: str, sabotage: Sabotage | None = None) -> tuple[int, Any]:
        monkeypatch.setattr("core.local.stores.open_local_stores", these)
        monkeypatch.setattr("functions.cli.demo.COSMOS_DATABASE", settings.cosmos_database)
        monkeypatch.setattr(run, "run_demo", partial(run_demo, sabotage=sabotage, timing=QUICK))
        monkeypatch.setattr("sys.argv", ["crossfeed", "demo", "--json", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = capfd.readouterr()
        assert output, errors
        return int(ended.value.code or 0), json.loads(output)

    return run_command


def test_exactly_what_was_planted_is_found_and_is_the_exit_code(command: Callable[..., tuple[int, Any]]) -> None:
    """A loss, an old content and an old stamp, an echo from either store."""
    planted = Sabotage(in_silence=echoes, before_comparison=by_the_mirror(LOSE, KEEP_OLD_CONTENT, KEEP_OLD_STAMP))
    code, verdict = command("--seconds", "0.5", "--documents-count", "60", sabotage=planted)
    assert code == 1
    counts = {name: verdict[name] for name in ("lost", "stale", "echoed", "dead_lettered")}
    assert counts == {"lost": 1, "stale": 2, "echoed": 2, "dead_lettered": 0}
    assert verdict["written"] == verdict["carried"] > 60
    assert {"postgres_to_cosmos", "cosmos_to_postgres"} == verdict["lag_ms"].keys()


def test_a_users_own_documents_cross_both_ways_to_the_letter(
    command: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    documents: list[dict[str, Any]] = [
        {"id": f"d{number}", "address": {"city": city}, "Number": [1.0, 0.1, 1e21, -7], "": None, "ü": "\u2028"}
        for number, city in enumerate(["Zürich", "Bern", 7, 7.5, True, "", "a/b"])
    ]
    system = {"_ts": 1, "_etag": "old", "_rid": "r", "_self": "s", "_attachments": "a"}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([document | system for document in documents]))
    code, verdict = command(
        *("--documents", str(file), "--container", "Places", "--partition-key", "/address/city"),
        *("--export", str(tmp_path / "out")),
    )
    assert code == 0
    assert verdict["written"] == verdict["carried"] == 14
    exported = tmp_path / "out" / "postgres" / "Places.json"
    assert sorted(json.loads(exported.read_bytes()), key=lambda item: str(item["id"])) == documents
    assert exported.read_bytes() == (tmp_path / "out" / "cosmos" / "Places.json").read_bytes()


def a_verdict() -> Verdict:
    lag = {"postgres_to_cosmos": {"p50": 1.0, "p99": 2.0}}
    return Verdict(12, 12, 0, 0, 0, 0, 10, 1, 1, 11, 3.5, lag)


async def shown(*, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100)
    board = Board(counters=lambda: {"written": "12", "on its way": "3"})
    async with showing(board, console):
        with board.during("first stage", seconds=1):
            await asyncio.sleep(1.1)
        with board.during("second stage", done=lambda: 0.5):
            await asyncio.sleep(0.3)
    show_verdict(a_verdict(), console)
    return output.getvalue()


async def test_a_pipe_gets_plain_lines_and_one_table() -> None:
    output = await shown(terminal=False)
    assert "\x1b" not in output
    assert "first stage: written 12, on its way 3\n" in output
    assert "done: first stage: 1.1 s\n" in output
    assert output.count("Crossfeed demo: clean") == 1


async def test_a_terminal_gets_live_counters_and_the_time_that_is_left() -> None:
    output = await shown(terminal=True)
    assert "\x1b[" in output
    assert "second stage" in output
    assert "on its way" in output
    assert "left" in output
    assert output.count("Crossfeed demo: clean") == 1
