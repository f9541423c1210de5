"""Measures how long writers wait while the primary moves, forwards and back, and that they notice nothing else.

Relay, mirror and each step are processes of their own, as in production. Eight writers rename accounts at full speed
through `Crossfeed.transact`, two readers read them; whoever gets an error is counted. A pause is the longest time that
one of the writers waited for its acknowledgement while the step was made. At the end every account must have, in both
stores, the name that was acknowledged last.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from core.cosmos.client import open_cosmos
from core.crossfeed import Crossfeed
from core.domain import use_cases
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.domain.samples import sample_documents
from core.errors import CrossfeedError
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.postgres.engine import open_engine
from core.settings import Settings
from tests.bench.command import running
from tests.bench.server import server_process
from tests.bench.wire import WrongAnswerError
from tests.chaos.fleet import environment_of
from tests.stores import install, memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.repository import UnitOfWork

DOCUMENTS: Final = 2_000
WRITERS: Final = 8
READERS: Final = 2
ARRIVED_WITHIN_S: Final = 60.0


@dataclass(slots=True)
class _Log:
    """What clients saw: (beginning, seconds) of each call, the errors, and the name acknowledged last."""

    writes: list[tuple[float, float]] = field(default_factory=list)
    reads: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def longest_ms(self, calls: list[tuple[float, float]], since: float, until: float) -> float:
        """Return the longest of the calls that were under way in this time."""
        return max((took for began, took in calls if began < until and began + took > since), default=0.0) * 1000


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return the median of the pauses each way, the longest read during a step, and the number of errors.

    Raises:
        WrongAnswerError: a step was refused, or an acknowledged write is not in both stores.

    """
    log = _Log()
    forward: list[float] = []
    back: list[float] = []
    reads: list[float] = []
    with server_process() as server:
        async with EmbeddedPostgres(within=memory()) as postgres:
            settings = Settings.load(
                postgres_dsn=await postgres.create_database("bench"),
                cosmos_endpoint=server.endpoint,
                cosmos_key=server.key,
                cosmos_database="bench",
                mappings="core.domain.mappings:MAPPINGS",
                reconcile_ru_per_second=1_000_000.0,  # nobody pays for them here
            )
            await install(settings.require_postgres())
            mappings = Mappings(MAPPINGS)
            async with open_cosmos(settings) as store, open_engine(settings) as engine:
                await store.provision(mappings)
                accounts = await _load(store)
                async with running("relay", settings), running("mirror", settings):
                    await _mirrored(engine, len(accounts))
                    await _step(settings, "advance", "--writers-restarted")
                    async with _busy(settings, mappings, accounts, log):
                        for number in range(rounds):
                            print(f"round {number + 1} of {rounds}", file=sys.stderr)
                            for way, pauses in (("advance", forward), ("back", back)):
                                await asyncio.sleep(seconds / rounds / 2)
                                began = time.perf_counter()
                                await _step(settings, way)
                                ended = time.perf_counter()
                                pauses.append(log.longest_ms(log.writes, began, ended))
                                reads.append(log.longest_ms(log.reads, began, ended))
                    await _check(engine, store, log)
    for error in log.errors[:5]:
        print(error, file=sys.stderr)
    return {
        "pause_forward_ms": round(median(forward)),
        "pause_back_ms": round(median(back)),
        "errors": len(log.errors),
        "longest_read_ms": round(max(reads)),
        "writes": len(log.writes),
        "writers": WRITERS,
    }


async def _load(store: CosmosStore) -> list[str]:
    """Write the demo's documents as its legacy application does; return the ids of the accounts."""
    slots = asyncio.Semaphore(16)

    async def one(container: str, document: dict[str, object]) -> None:
        async with slots:
            await store.container_named(container).create_item(document)

    documents = sample_documents(DOCUMENTS, seed=1)
    async with asyncio.TaskGroup() as group:
        for container, items in documents.items():
            for document in items:
                group.create_task(one(container, document))
    return [document["id"] for document in documents[ACCOUNTS.container]]


async def _mirrored(engine: AsyncEngine, accounts: int) -> None:
    async with asyncio.timeout(ARRIVED_WITHIN_S):
        while True:
            async with engine.connect() as connection:
                if (await connection.exec_driver_sql("SELECT count(*) FROM accounts")).scalar_one() >= accounts:
                    return
            await asyncio.sleep(0.1)


async def _step(settings: Settings, way: str, *options: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("crossfeed")), "phase", way, "--json"),
        *("--foreign-quiet", "0", "--settle", "2", *options),
        env={**os.environ, **environment_of(settings)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        msg = f"the step {way} was not made: {(output or errors).decode()[-2000:]}"
        raise WrongAnswerError(msg)
    report = json.loads(output)
    print(f"{way}: paused {report['pause_ms']} ms by the report", file=sys.stderr)


class _Clients:
    """Write and read; whoever got an error goes on."""

    def __init__(self, db: Crossfeed, accounts: list[str], log: _Log) -> None:
        self._db = db
        self._accounts = accounts
        self._log = log
        self._serial = count(1)
        self.stop = asyncio.Event()

    async def write(self, mine: list[str]) -> None:
        """Rename accounts that nobody else renames."""
        while not self.stop.is_set():
            number = next(self._serial)
            id_, name = mine[number % len(mine)], f"name {number}"
            self._log.names.pop(id_, None)
            if await _timed(self._log, self._log.writes, self._db.transact(partial(_rename, id_, name))):
                self._log.names[id_] = name

    async def read(self) -> None:
        """Read what others rename."""
        while not self.stop.is_set():
            id_ = self._accounts[next(self._serial) % len(self._accounts)]
            await _timed(self._log, self._log.reads, self._look(id_))
            await asyncio.sleep(0.005)

    async def _look(self, id_: str) -> None:
        async with self._db.unit_of_work() as work:
            if await work[Account].get_by_id(id_, partition_key=id_) is None:
                self._log.errors.append(f"{id_} was not found")


async def _rename(id_: str, name: str, work: UnitOfWork) -> None:
    await use_cases.rename_account(work, id_, display_name=name)
    await work.commit()


@asynccontextmanager
async def _busy(settings: Settings, mappings: Mappings, accounts: list[str], log: _Log) -> AsyncIterator[None]:
    """Let everybody write and read as long as the context is open."""
    async with Crossfeed.open(settings, mappings) as db, asyncio.TaskGroup() as group:
        clients = _Clients(db, accounts, log)
        for number in range(WRITERS):
            group.create_task(clients.write(accounts[number::WRITERS]))
        for _ in range(READERS):
            group.create_task(clients.read())
        yield
        clients.stop.set()


async def _timed(log: _Log, calls: list[tuple[float, float]], call: Awaitable[None]) -> bool:
    """Note how long a call took, or its error; return whether there was none."""
    began = time.perf_counter()
    try:
        await call
    except CrossfeedError as error:
        log.errors.append(f"{type(error).__name__}: {error}")
        return False
    finally:
        calls.append((began, time.perf_counter() - began))
    return True


async def _check(engine: AsyncEngine, store: CosmosStore, log: _Log) -> None:
    """Wait until both stores have the name of every account that was acknowledged last."""
    wrong: set[str] = set()
    for _ in range(int(ARRIVED_WITHIN_S)):
        async with engine.connect() as connection:
            rows = dict(map(tuple, await connection.exec_driver_sql("SELECT id, display_name FROM accounts")))
        query = "SELECT VALUE [c.id, c.DisplayName] FROM c WHERE NOT IS_DEFINED(c.crossfeed.kind)"
        documents = {id_: name async for id_, name in store.container(ACCOUNTS).query_items(query)}
        wrong = {id_ for id_, name in log.names.items() if not rows[id_] == documents[id_] == name}
        if not wrong:
            return
        await asyncio.sleep(1)
    msg = f"{len(wrong)} of {len(log.names)} accounts do not have the name that was acknowledged last"
    raise WrongAnswerError(msg)
