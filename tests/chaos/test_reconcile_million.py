"""A million documents: the reconcile pass goes on after a kill, stays small in memory, and says how far it is."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.domain.mappings import GAME_SESSIONS
from tests.bench.server import ServerProcess, server_process
from tests.bench.wire import Answer, Signer, drive, expect
from tests.chaos.fleet import environment_of
from tests.integration.relay_steps import connect, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings
    from tests.bench.wire import Script

ACCOUNTS = 10_000
EACH = 100
DOCUMENTS = ACCOUNTS * EACH
GONE = 300
"""Rows whose documents are not there; as many documents have no row."""
KILLED_AT = 400_000
MOST_BYTES = 400 * 2**20
MOST_GROWTH = 64 * 2**20
"""What a pass may hold beyond what it held after a fifth of the documents."""
CONNECTIONS = 8
PROGRESS = re.compile(r"documents of GameSessions: ([\d,]+) of ([\d,]+)(.*left)?")
CROSSFEED = (sys.executable, "-c", "from functions.cli import main; main()")


@dataclass
class Pass:
    """One run of the command: what it said, how much memory it had at most, in bytes, how long it took, in seconds."""

    lines: list[str] = field(default_factory=list)
    peak: int = 0
    at_tenth: int = 0
    seconds: float = 0.0
    output: bytes = b""

    @property
    def documents(self) -> list[int]:
        """How many documents it said it had read."""
        return [int(found[1].replace(",", "")) for line in self.lines if (found := PROGRESS.search(line))]


def account(number: int) -> str:
    return f"account-{number:05d}"


def first_of(number: int) -> int:
    """The first session of an account that has a document: a few of the first accounts have lost theirs."""
    return 3 if number < GONE // 3 else 0


def fill(server: ServerProcess, database: str, sink: list[tuple[str, str, str]]) -> None:
    """Write all documents, in transactional batches, and collect (account, id, `_etag`)."""
    signer = Signer(server.endpoint, server.key)
    link = f"dbs/{database}/colls/{GAME_SESSIONS.container}"

    def script(accounts: range) -> Script:
        for number in accounts:
            key = account(number)
            ids = [f"s{session}" for session in range(first_of(number), EACH)]
            body = [{"operationType": "Create", "resourceBody": {"id": id_, "accountId": key}} for id_ in ids]
            headers = {
                "x-ms-cosmos-is-batch-request": "True",
                "x-ms-cosmos-batch-atomic": "True",
                "x-ms-documentdb-partitionkey": json.dumps([key]),
                "Content-Type": "application/json",
            }
            answer: Answer = yield signer.request("POST", f"/{link}/docs", "docs", link, orjson.dumps(body), headers)
            expect(answer, 200)
            sink.extend((key, id_, one["eTag"]) for id_, one in zip(ids, orjson.loads(answer.body), strict=True))

    drive(server.endpoint, [script(range(start, ACCOUNTS, CONNECTIONS)) for start in range(CONNECTIONS)])


def rows(written: list[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    """The rows that there are: of all documents but the last ones, and of those that are gone."""
    yield from written[:-GONE]
    for number in range(GONE // 3):
        for session in range(first_of(number)):
            yield account(number), f"s{session}", f'"gone-{number}-{session}"'


async def put_rows(settings: Settings, written: list[tuple[str, str, str]]) -> None:
    connection = await connect(settings)
    async with connection, connection.transaction():
        await connection.execute("SELECT set_config('crossfeed.mirroring', 'on', true)")
        await connection.execute("CREATE TEMPORARY TABLE loaded (account_id text, id text, etag text) ON COMMIT DROP")
        async with connection.cursor().copy("COPY loaded FROM STDIN") as copy:
            for row in rows(written):
                await copy.write_row(row)
        await connection.execute("""
            INSERT INTO game_sessions
                (account_id, id, crossfeed_epoch, crossfeed_version, crossfeed_etag, crossfeed_ts, crossfeed_lsn)
            SELECT account_id, id, 1, 1, etag, 1, 1 FROM loaded
        """)


def memory(pid: int) -> tuple[int, int]:
    """Return what a process holds, and has held at most, in bytes; 0 where the system does not tell, or it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("VmHWM", 0)) * 1024


async def reconcile(environment: dict[str, str], kill_at: int | None) -> Pass:
    """Run the command, and kill it once it has read so many documents."""
    done, began = Pass(), time.monotonic()
    command = (*CROSSFEED, "reconcile", "--container", GAME_SESSIONS.container, "--json")
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stdout is not None

    async def watch() -> None:
        while process.returncode is None:
            now, peak = memory(process.pid)
            done.peak = max(done.peak, peak)
            if done.documents and done.documents[-1] <= DOCUMENTS // 5:
                done.at_tenth = max(done.at_tenth, now)
            await asyncio.sleep(0.2)

    watcher = asyncio.ensure_future(watch())
    async for line in process.stderr:
        done.lines.append(line.decode().rstrip())
        print(done.lines[-1], flush=True)
        if kill_at is not None and done.documents and done.documents[-1] >= kill_at:
            process.kill()
            break
    done.output = await process.stdout.read()
    await process.wait()
    await watcher
    done.seconds = time.monotonic() - began
    return done


@pytest.mark.chaos
@pytest.mark.timeout(1200)
async def test_a_million_documents_are_reconciled_in_bounded_memory_also_after_a_kill(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    with server_process() as server:
        here = settings.model_copy(update={"cosmos_endpoint": server.endpoint, "cosmos_key": SecretStr(server.key)})
        async with open_cosmos(here) as store:
            await store.provision(mappings, throughput=18_000)  # three physical partitions
        began = time.monotonic()
        written: list[tuple[str, str, str]] = []
        await asyncio.to_thread(fill, server, here.cosmos_database, written)
        filled = time.monotonic()
        # They are not what is measured, and take longer than everything that is.
        indexes = ("by_account", "by_profile", "by_status", "by_scenario", "by_id")
        await run(engine, *[f"DROP INDEX game_sessions_{name}" for name in indexes])
        await put_rows(here, written)
        print(f"{len(written):,} documents in {filled - began:.0f} s, rows in {time.monotonic() - filled:.0f} s")
        environment = {
            **environment_of(here),
            "CROSSFEED_RECONCILE_RU_PER_SECOND": "1e9",
            "CROSSFEED_RECONCILE_PAUSE_MS": "0",
            "CROSSFEED_RECONCILE_LAG_S": "1",
            "CROSSFEED_RECONCILE_LEASE_S": "5",
        }
        killed = await reconcile(environment, KILLED_AT)
        await asyncio.sleep(5)  # its lease
        resumed = await reconcile(environment, None)

    figures: dict[str, Any] = json.loads(resumed.output)["containers"][0]
    print(json.dumps(figures))
    print(
        f"killed after {killed.seconds:.0f} s at {killed.documents[-1]:,} documents;"
        f" resumed at {resumed.documents[0]:,},"
        f" done after {resumed.seconds:.0f} s; memory {killed.at_tenth / 2**20:.0f} MiB early,"
        f" peak {max(killed.peak, resumed.peak) / 2**20:.0f} MiB"
    )
    # The second run does not start again, and no page but the killed one was read twice.
    assert resumed.documents[0] >= killed.documents[-1] >= KILLED_AT
    assert figures["documents"] <= len(written) + 1000
    assert (figures["removed"], figures["applied"], figures["rows"]) == (GONE, GONE, DOCUMENTS)
    async with engine.connect() as connection:
        left = (await connection.exec_driver_sql("SELECT count(*) FROM game_sessions")).scalar_one()
    assert left == DOCUMENTS - GONE
    # It says how far it is and how long it will take.
    said = [line for line in killed.lines + resumed.lines if PROGRESS.search(line)]
    assert len(said) > 4
    assert sum(line.endswith("left") for line in said) >= len(said) - 3
    assert max(killed.peak, resumed.peak) < MOST_BYTES
    assert max(killed.peak, resumed.peak) < killed.at_tenth + MOST_GROWTH or not killed.at_tenth
