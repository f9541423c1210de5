"""Measures the way from the change feed to committed rows, against the SDK's bare feed read and the mirror alone.

All three go over the same documents, those of all four containers of the example, in pages of the same size, from the
beginning: the SDK reads pages; the mirror applies pages that were read before; the processor reads, applies, and moves
its checkpoints. The last two each begin with an empty database. The server of Cosmos DB is a process of its own; the
three share one, as the processor and its SDK do in production.

How long a change takes is measured with `crossfeed mirror` as a process and 50 changes a second, from before a document
is sent to Cosmos DB until another session can read its row.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from contextlib import asynccontextmanager
from itertools import count
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Final

import psycopg

from changefeed.mirror import Mirror
from changefeed.processor import Processor
from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.envelope import Origin, stamped
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.postgres.phases import read_phase
from core.settings import Settings
from core.stamp import Stamp
from tests.bench.command import running
from tests.bench.mirrored import check, contents, opened
from tests.bench.server import server_process
from tests.bench.wire import WrongAnswerError
from tests.stores import install, memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from tests.bench.mirrored import Documents

DOCUMENTS: Final = 2_000
PAGE: Final = 100
WRITERS: Final = 16
CHANGES_PER_S: Final = 50
ASK_EVERY_S: Final = 0.001
ARRIVED_WITHIN_S: Final = 60.0
TEMPLATE: Final = "installed"


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return documents a second of each way, and how long a change takes, in ms.

    Args:
        seconds: about how long all rounds of one figure take; of the times, exactly so.
        rounds: how many there are at least.

    Raises:
        WrongAnswerError: not all rows are there, or one is not as its document; or a change did not arrive.

    """
    with server_process() as server:
        async with EmbeddedPostgres(within=memory()) as postgres:
            settings = Settings.load(
                cosmos_endpoint=server.endpoint,
                cosmos_key=server.key,
                cosmos_database="bench",
                mappings="core.domain.mappings:MAPPINGS",
                mirror_page_size=PAGE,
            )
            async with open_cosmos(settings) as store:
                await store.provision(Mappings(MAPPINGS))
                bench = _Bench(postgres, settings, store, contents(DOCUMENTS))
                await bench.prepare()
                return await bench.rates(seconds, rounds) | await bench.times(seconds, rounds)


class _Bench:
    def __init__(
        self, postgres: EmbeddedPostgres, settings: Settings, store: CosmosStore, documents: Documents
    ) -> None:
        self._postgres = postgres
        self._settings = settings
        self._store = store
        self._documents = documents
        self._count = sum(map(len, documents.values()))
        self._serial = count(1)

    async def prepare(self) -> None:
        """Write the documents to Cosmos DB."""
        await install(await self._postgres.create_database(TEMPLATE))
        waiting = iter([(container, item) for container, items in self._documents.items() for item in items])

        async def write() -> None:
            for container, item in waiting:
                await self._store.container_named(container).create_item(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(write())

    async def rates(self, seconds: float, rounds: int) -> dict[str, float | int | str]:
        await self._round()  # plans, caches, imports
        sdk: list[float] = []
        mirror: list[float] = []
        processor: list[float] = []
        began = perf_counter()
        while len(sdk) < rounds or perf_counter() - began < seconds:
            for figures, figure in zip((sdk, mirror, processor), await self._round(), strict=True):
                figures.append(figure)
        least = map(min, sdk, mirror)
        return {
            "sdk_feed_per_s": round(median(sdk)),
            "mirror_per_s": round(median(mirror)),
            "processor_per_s": round(median(processor)),
            "ratio": round(median([one / other for one, other in zip(processor, least, strict=True)]), 3),
        }

    async def _round(self) -> tuple[float, float, float]:
        """Return documents a second of the SDK alone, the mirror alone, and the processor."""
        began = perf_counter()
        pages = await self._read()
        sdk = self._count / (perf_counter() - began)
        async with self._database() as (engine, _):
            began = perf_counter()
            await self._mirror(engine, pages)
            mirror = self._count / (perf_counter() - began)
            await check(engine, self._documents)
        async with self._database() as (engine, _):
            began = perf_counter()
            await Processor(engine, self._store, Mappings(MAPPINGS), page_size=PAGE).run_once()
            processor = self._count / (perf_counter() - began)
            await check(engine, self._documents)
        return sdk, mirror, processor

    async def _read(self) -> list[tuple[str, list[Document]]]:
        """Read all feeds with the SDK, as its documentation says."""
        found: list[tuple[str, list[Document]]] = []
        for name in self._documents:
            container = self._store.container_named(name)
            async for feed_range in container.read_feed_ranges():
                feed = container.query_items_change_feed(
                    feed_range=feed_range, start_time="Beginning", max_item_count=PAGE
                )
                found += [(name, [item async for item in page]) async for page in feed.by_page()]
        if (read := sum(len(items) for _, items in found)) != self._count:
            msg = f"the SDK read {read} of {self._count} documents"
            raise WrongAnswerError(msg)
        return found

    async def _mirror(self, engine: AsyncEngine, pages: list[tuple[str, list[Document]]]) -> None:
        mappings = Mappings(MAPPINGS)
        mirror = Mirror(engine, CosmosDocuments(self._store, mappings), mappings)
        async with engine.connect() as connection:
            phase = await read_phase(connection)
        for container, items in pages:
            if items:
                await mirror.apply(container, items, phase)

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[tuple[AsyncEngine, Settings]]:
        """Yield an engine on an empty database, and settings that lead to it."""
        name = f"bench_{uuid.uuid4().hex}"
        dsn = await self._postgres.create_database(name, template=TEMPLATE)
        settings = Settings.load(**{**self._settings.model_dump(exclude_unset=True), "postgres_dsn": dsn})
        async with opened(settings) as (engine, _):
            yield engine, settings
        await self._postgres.drop_database(name)

    # -- how long a change takes

    async def times(self, seconds: float, rounds: int) -> dict[str, float | int | str]:
        p50: list[float] = []
        p99: list[float] = []
        async with self._database() as (_, settings), running("mirror", settings):
            await self._times(settings, 10)  # it has started, and has read what was there
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                cuts = quantiles(await self._times(settings, max(2, int(seconds / rounds * CHANGES_PER_S))), n=100)
                p50.append(cuts[49])
                p99.append(cuts[98])
        return {
            "p50_ms": round(median(p50) * 1000, 1),
            "p99_ms": round(median(p99) * 1000, 1),
            "changes_per_s": CHANGES_PER_S,
            "page_size": PAGE,
        }

    async def _times(self, settings: Settings, changes: int) -> list[float]:
        """Write new documents, so many a second; return the seconds from each until its row could be read."""
        sent: dict[str, float] = {}
        took: list[float] = []

        async def write(serial: int) -> None:
            item = {"id": f"late-{serial}", "DisplayName": str(serial), "Email": "someone@example.org"}
            sent[item["id"]] = perf_counter()
            await self._store.container(ACCOUNTS).create_item(stamped(item, Stamp(2, 1), Origin.COSMOS))

        async def watch() -> None:
            async with await psycopg.AsyncConnection.connect(settings.require_postgres(), autocommit=True) as session:
                deadline = perf_counter() + changes / CHANGES_PER_S + ARRIVED_WITHIN_S
                while len(took) < changes:
                    found = await session.execute("SELECT id FROM accounts WHERE id = ANY(%s)", [list(sent)])
                    now = perf_counter()
                    took.extend([now - sent.pop(id_) for (id_,) in await found.fetchall()])
                    if now > deadline:
                        msg = f"{changes - len(took)} of {changes} changes did not arrive"
                        raise WrongAnswerError(msg)
                    await asyncio.sleep(ASK_EVERY_S)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(watch())
                began = perf_counter()
                for turn in range(changes):
                    await asyncio.sleep(began + turn / CHANGES_PER_S - perf_counter())
                    group.create_task(write(next(self._serial)))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return took
