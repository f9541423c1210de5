"""A world of writers, feed and mirror that is shaken, then checked: outcomes are true, rows follow, none goes back."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError

from changefeed.processor import Processor
from core.content import content_hash
from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.envelope import is_deleted
from core.errors import ConflictError, OutcomeUnknownError, TransientError
from core.postgres.held import read_held
from tests.integration.fault_steps import Spell, all_versions, pass_through
from tests.integration.relay_steps import letters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.cosmos import CosmosServer
    from core.local.cosmos.faults import Faults
    from core.mappings import Mappings
    from core.settings import Settings


KEYS = 5


@dataclass(frozen=True)
class World:
    """Both stores, what goes wrong at one of them, and the epoch in which Cosmos DB is primary."""

    settings: Settings
    engine: AsyncEngine
    server: CosmosServer
    cosmos: CosmosStore
    mappings: Mappings
    epoch: int

    @property
    def faults(self) -> Faults:
        return self.server.faults

    def work(self, store: CosmosStore | None = None) -> CosmosUnitOfWork:
        return CosmosUnitOfWork(store or self.cosmos, self.mappings, self.epoch)

    def processor(self, store: CosmosStore | None = None) -> Processor:
        return Processor(self.engine, store or self.cosmos, self.mappings, page_size=5, poll_ms=10)


@dataclass
class Told:
    """What the writers were told of their writes, each by a name of its own."""

    done: set[str] = field(default_factory=set)
    not_done: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


async def write(  # noqa: PLR0913, PLR0917 - what one writer is told
    world: World, store: CosmosStore, run: str, seed: int, done: asyncio.Event, told: Told
) -> None:
    """Add, change and delete accounts by our own unit of work, and change some as a foreign writer does."""
    chance = random.Random(seed)
    serial = 0
    while not done.is_set():
        serial += 1
        name = f"{seed}-{serial}"
        id_ = f"{run}-{chance.randrange(KEYS)}"
        if chance.random() < 0.1:
            with suppress(AzureError):
                await store.container(world.mappings.of(Account)).upsert_item(
                    {"id": id_, "DisplayName": f"foreign {name}"}
                )
            continue
        try:
            async with world.work(store) as work:
                account = await work[Account].get_by_id(id_)
                if account is None:
                    await work[Account].add(Account(id=id_, display_name=name))
                elif chance.random() < 0.25:
                    await work[Account].delete(account)
                    name = ""
                else:
                    account.display_name = name
                    await work[Account].update(account)
                await work.commit()
        except (ConflictError, TransientError):
            told.not_done.add(name)
        except OutcomeUnknownError:
            told.unknown.add(name)
        else:
            told.done.add(name)
        await asyncio.sleep(chance.uniform(0, 0.02))


class Watch:
    """Looks at the rows over and over."""

    def __init__(self, engine: AsyncEngine, run: str) -> None:
        self._engine = engine
        self._run = run
        self.taken: dict[str, list[str]] = defaultdict(list)

    async def run(self, done: asyncio.Event) -> None:
        while not done.is_set():
            await self.look()
            await asyncio.sleep(0.005)

    async def look(self) -> None:
        async with self._engine.connect() as connection:
            result = await connection.exec_driver_sql(
                "SELECT id, crossfeed_etag FROM accounts WHERE starts_with(id, %(run)s) UNION ALL"
                " SELECT id, etag FROM crossfeed.tombstone d WHERE starts_with(id, %(run)s)"
                " AND NOT EXISTS (SELECT FROM accounts a WHERE a.id = d.id)",
                {"run": self._run},
            )
            for id_, etag in map(tuple, result):
                if self.taken[id_][-1:] != [etag]:
                    self.taken[id_].append(etag)


@asynccontextmanager
async def running(processor: Processor) -> AsyncIterator[None]:
    """Run the processor; fails if it ends by itself."""
    stop = asyncio.Event()
    task = asyncio.create_task(processor.run(stop))
    try:
        yield
        assert not task.done(), "the processor has ended"
    finally:
        stop.set()
        await task


async def turmoil(world: World, spells: list[Spell], seed: int, spell_s: float) -> None:
    run = uuid.uuid4().hex[:8]
    told, written, mirrored = Told(), asyncio.Event(), asyncio.Event()
    watch = Watch(world.engine, run)
    async with open_cosmos(world.settings) as ours, open_cosmos(world.settings) as writers:
        processor = world.processor(ours)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch.run(mirrored))
            async with running(processor), asyncio.TaskGroup() as writing:
                for number in range(2):
                    writing.create_task(write(world, writers, run, number, written, told))
                await pass_through(world.server, writers, spells, seed, spell_s)
                written.set()
            await processor.run_once()
            mirrored.set()
        await watch.look()
        await check(world, run, told, watch)
        assert processor.stats.dead_lettered == processor.stats.quarantined == 0
        assert await letters(world.engine) == []


async def check(world: World, run: str, told: Told, watch: Watch) -> None:
    mapping = world.mappings.of(Account)
    versions = {
        i: found for i, found in all_versions(world.server, world.cosmos, mapping).items() if i.id.startswith(run)
    }
    shown = {document.get("DisplayName") for found in versions.values() for document in found}
    assert told.done - {""} <= shown, "a false success"
    assert not (told.not_done - {""}) & shown, "a false failure"
    identities = list(versions)
    async with world.engine.connect() as connection:
        held = await read_held(connection, mapping, identities)
    for item in held:
        newest = versions[item.identity][-1]
        if is_deleted(newest):
            assert item.live_row is None, f"{item.identity} was resurrected"
        else:
            assert item.live_row is not None, f"{item.identity} is missing"
            assert content_hash(item.live_row.document(mapping)) == content_hash(newest)
        order = [document["_etag"] for document in versions[item.identity]]
        places = [order.index(etag) for etag in watch.taken[item.identity.id]]
        assert places == sorted(places), f"the row of {item.identity} went back"
