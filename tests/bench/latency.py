"""Measures how long after its commit in Postgres a change can be read in Cosmos DB, against a bare write of the SDK.

The relay is a process of its own, as in production. What can be read is seen by somebody who asks the change feed
again and again; the SDK's own time is that of its call, without anybody who has to see it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import asynccontextmanager
from itertools import count
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final

import orjson
import psycopg
from azure.core import MatchConditions

from core.cosmos.client import CosmosStore, open_cosmos
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.postgres.engine import open_engine
from core.settings import Settings
from tests.bench.command import running
from tests.bench.cosmos import feed_page
from tests.bench.server import server_process
from tests.bench.wire import Signer, WrongAnswerError, drive, expect
from tests.integration.relay_steps import make_primary
from tests.stores import install, memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.bench.wire import Script

COMMITS_PER_S: Final = 200
DOCUMENTS: Final = 1_000
CLIENTS: Final = 8
ASK_EVERY_S: Final = 0.001
ARRIVED_WITHIN_S: Final = 60.0
CONTAINER: Final = f"dbs/bench/colls/{ACCOUNTS.container}"


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return the SDK's median, and the median and 99th percentile from commit to readable, in ms.

    Raises:
        WrongAnswerError: a change did not arrive.

    """
    sdk: list[float] = []
    p50: list[float] = []
    p99: list[float] = []
    with server_process() as server:
        async with EmbeddedPostgres(within=memory()) as postgres:
            settings = Settings.load(
                postgres_dsn=await postgres.create_database("bench"),
                cosmos_endpoint=server.endpoint,
                cosmos_key=server.key,
                cosmos_database="bench",
                mappings="core.domain.mappings:MAPPINGS",
            )
            await install(settings.require_postgres())
            async with open_cosmos(settings) as store, open_engine(settings) as engine:
                await store.provision(Mappings(MAPPINGS))
                await make_primary(engine)
                async with running("relay", settings), _clients(settings) as clients:
                    bench = Bench(Signer(server.endpoint, server.key), clients, store)
                    await bench.prepare()
                    for number in range(rounds):
                        print(f"round {number + 1} of {rounds}", file=sys.stderr)
                        sdk.append(median(await bench.sdk(seconds / rounds)))
                        cuts = quantiles(await bench.relay(seconds / rounds), n=100)
                        p50.append(cuts[49])
                        p99.append(cuts[98])
    return {
        "sdk_p50_ms": round(median(sdk) * 1000, 2),
        "p50_ms": round(median(p50) * 1000, 2),
        "p99_ms": round(median(p99) * 1000, 2),
        "commits_per_s": COMMITS_PER_S,
    }


class Bench:
    """Changes documents through Postgres, or by the SDK alone."""

    def __init__(
        self, signer: Signer, clients: asyncio.Queue[psycopg.AsyncConnection[Any]], store: CosmosStore
    ) -> None:
        self._signer = signer
        self._clients = clients
        self._container = store.container(ACCOUNTS)
        self._etags: dict[int, str] = {}
        self._seen: dict[str, float] = {}
        self._serial = count(1)

    async def prepare(self) -> None:
        """Write every document once, by both ways."""
        for number in range(DOCUMENTS):
            answer = await self._container.create_item({"id": f"sdk{number}", "DisplayName": "0"})
            self._etags[number] = answer["_etag"]
        client = await self._clients.get()
        await client.execute(
            "INSERT INTO accounts (id, display_name) SELECT 'a' || n, 'new' || n FROM generate_series(0, %s) n",
            [DOCUMENTS - 1],
        )
        self._clients.put_nowait(client)
        ended = threading.Event()
        ended.set()
        await asyncio.to_thread(self._watch, {f"new{number}": 0.0 for number in range(DOCUMENTS)}, ended)
        await self.relay(1.0)

    async def sdk(self, seconds: float) -> list[float]:
        """Replace documents by the SDK; return the seconds that each call took."""
        took: list[float] = []

        async def replace(serial: int) -> None:
            number = serial % DOCUMENTS
            document = {"id": f"sdk{number}", "DisplayName": str(serial), "Email": "someone@example.org"}
            began = time.perf_counter()
            answer = await self._container.replace_item(
                document["id"], document, etag=self._etags[number], match_condition=MatchConditions.IfNotModified
            )
            took.append(time.perf_counter() - began)
            self._etags[number] = answer["_etag"]

        await self._pace(seconds, replace)
        return took

    async def relay(self, seconds: float) -> list[float]:
        """Update rows; return the seconds from each commit until its document could be read."""
        committed: dict[str, float] = {}

        async def update(serial: int) -> None:
            client = await self._clients.get()
            await client.execute(
                "UPDATE accounts SET display_name = %s WHERE id = %s", [str(serial), f"a{serial % DOCUMENTS}"]
            )
            committed[str(serial)] = time.perf_counter()
            self._clients.put_nowait(client)

        ended = threading.Event()
        watching = asyncio.ensure_future(asyncio.to_thread(self._watch, committed, ended))
        try:
            await self._pace(seconds, update)
        finally:
            ended.set()
            await watching
        return [self._seen[serial] - at for serial, at in committed.items()]

    async def _pace(self, seconds: float, act: Callable[[int], Awaitable[None]]) -> None:
        """Act so many times a second whether those before have ended or not."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for turn in range(int(seconds * COMMITS_PER_S)):
                await asyncio.sleep(began + turn / COMMITS_PER_S - time.perf_counter())
                group.create_task(act(next(self._serial)))  # type: ignore[arg-type]

    def _watch(self, wanted: dict[str, float], ended: threading.Event) -> None:
        """See every change as it becomes readable, until no more come and all that are wanted were seen.

        Raises:
            WrongAnswerError: one of them did not arrive.

        """
        drive(self._signer.endpoint, [self._asking(wanted, ended)])

    def _asking(self, wanted: dict[str, float], ended: threading.Event) -> Script:
        after = b""
        deadline = float("inf")
        while not ended.is_set() or wanted.keys() - self._seen.keys():
            if ended.is_set() and deadline == float("inf"):
                deadline = time.perf_counter() + ARRIVED_WITHIN_S
            answer = yield feed_page(self._signer, "0", after, CONTAINER)
            now = time.perf_counter()
            expect(answer, 200, 304)
            after = answer.header(b"etag")
            if answer.status == 200:
                for document in orjson.loads(answer.body)["Documents"]:
                    self._seen.setdefault(document["DisplayName"], now)
            elif now > deadline:
                msg = f"{len(wanted.keys() - self._seen.keys())} of {len(wanted)} changes did not arrive"
                raise WrongAnswerError(msg)
            else:
                time.sleep(ASK_EVERY_S)


@asynccontextmanager
async def _clients(settings: Settings) -> AsyncIterator[asyncio.Queue[psycopg.AsyncConnection[Any]]]:
    clients: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    for _ in range(CLIENTS):
        clients.put_nowait(await psycopg.AsyncConnection.connect(settings.require_postgres(), autocommit=True))
    try:
        yield clients
    finally:
        while not clients.empty():
            await clients.get_nowait().close()
