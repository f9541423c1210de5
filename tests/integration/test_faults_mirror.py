"""Writers, feed and mirror while Cosmos DB fails in every way: outcomes are true, rows follow, none goes back."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from azure.core.exceptions import AzureError
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from changefeed.processor import Processor
from core.content import content_hash
from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.envelope import is_deleted
from core.errors import ConflictError, OutcomeUnknownError, TransientError
from core.local.cosmos.faults import Applied, ByVersions, Down, Hold, Lag, Match, Operation, Rule
from core.local.cosmos.faults.registry import MAX_SEED
from core.phases import Phase
from core.postgres.held import read_held
from tests.integration.fault_steps import Spell, all_versions, keep_versions, pass_through, weather
from tests.integration.relay_steps import letters, make_primary, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.cosmos import CosmosServer
    from core.local.cosmos.faults import Faults
    from core.mappings import Mappings
    from core.settings import Settings

KEYS = 5


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share."""
    return own_cosmos_server


@pytest.fixture
async def cosmos(settings: Settings, mappings: Mappings) -> AsyncIterator[CosmosStore]:
    """Containers of two physical partitions each."""
    async with open_cosmos(settings) as store:
        await store.provision(mappings, throughput=12_000)
        yield store


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


@pytest.fixture
async def world(
    settings: Settings, engine: AsyncEngine, own_cosmos_server: CosmosServer, cosmos: CosmosStore, mappings: Mappings
) -> World:
    keep_versions(own_cosmos_server, cosmos)
    phase = await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    return World(settings, engine, own_cosmos_server, cosmos, mappings, phase.epoch)


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


@hypothesis_settings(max_examples=3)
@given(spells=weather(2), seed=st.integers(0, MAX_SEED))
async def test_whatever_the_weather_outcomes_are_true_and_rows_follow(
    world: World, spells: list[Spell], seed: int
) -> None:
    await turmoil(world, spells, seed, 0.15)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@hypothesis_settings(max_examples=60)
@given(spells=weather(5), seed=st.integers(0, MAX_SEED))
async def test_whatever_the_weather_outcomes_are_true_and_rows_follow_for_long(
    world: World, spells: list[Spell], seed: int
) -> None:
    await turmoil(world, spells, seed, 0.25)


async def save(world: World, id_: str, name: str) -> None:
    """Add an account, or change it."""
    async with world.work() as work:
        account = await work[Account].get_by_id(id_)
        if account is None:
            await work[Account].add(Account(id=id_, display_name=name))
        else:
            await work[Account].update(account.model_copy(update={"display_name": name}))
        await work.commit()


async def names(world: World) -> dict[str, str]:
    async with world.engine.connect() as connection:
        return dict(map(tuple, await connection.exec_driver_sql("SELECT id, display_name FROM accounts")))


@pytest.mark.parametrize("is_split", [True, False])
async def test_a_reader_without_a_session_on_a_replica_that_is_behind_takes_no_row_back(
    world: World, *, is_split: bool
) -> None:
    """It reads the new ranges from the beginning, all within one second, and the replica shows the state before."""
    world.faults.add(Rule(do=Lag(), on=Match(database="of nobody")))  # so that there is a past from here on
    for name in ("one", "two", "three"):
        await save(world, "a", name)
    await world.processor().run_once()
    container = world.server.account.container(world.cosmos.database, "Accounts")
    if is_split:
        for partition in list(container.partitions):
            container.split(partition.id)
    world.faults.add(Rule(do=Lag(behind=ByVersions(least=1, most=1)), name="behind"))
    async with open_cosmos(world.settings) as fresh:
        for _ in range(2):
            with suppress(TransientError):  # it waits for the replica
                await world.processor(fresh).run_once()
            assert await names(world) == {"a": "three"}
        world.faults.remove("behind")
        await save(world, "a", "four")
        processor = world.processor(fresh)
        await processor.run_once()
        assert await names(world) == {"a": "four"}
    assert await letters(world.engine) == []


async def test_a_clock_that_steps_back_holds_nothing_up(world: World) -> None:
    processor = world.processor()
    for number, step_s in enumerate((0, -30, -3600, 20, -1)):
        world.server.account.clock.advance(step_s)
        await save(world, "a", f"write {number}")
        await processor.run_once()
        assert await names(world) == {"a": f"write {number}"}
    assert await letters(world.engine) == []


async def test_a_partition_that_is_down_holds_back_only_its_own_feed_ranges(world: World) -> None:
    processor = world.processor()
    for number in range(12):
        await save(world, f"a{number}", "first")
    container = world.server.account.container(world.cosmos.database, "Accounts")
    upper = {document.id for document in container.partitions[1].by_rid.values()}
    assert 0 < len(upper) < 12
    async with running(processor):
        await until(lambda: processor.stats.applied == 12)
        world.faults.add(
            Rule(do=Down(), on=Match(container="Accounts", range_id=container.partitions[0].id), name="down")
        )
        for id_ in upper:
            await save(world, id_, "second")
        await until(lambda: processor.stats.applied == 12 + len(upper))
        await until(lambda: world.faults.injected["down"] > 1)
        assert {id_ for id_, name in (await names(world)).items() if name == "second"} == upper
        world.faults.clear()
        await save(world, min((await names(world)).keys() - upper), "second")
        await until(lambda: processor.stats.applied == 13 + len(upper))
    assert await letters(world.engine) == []


async def test_a_commit_that_is_applied_late_arrives_in_postgres_or_nowhere(world: World) -> None:
    processor = world.processor()
    for id_ in ("alone", "overtaken"):
        await save(world, id_, "first")
        hold = Rule(do=Hold(), on=Match(operations=frozenset({Operation.REPLACE}), id=id_), times=1)
        world.faults.add(hold)
        with pytest.raises(OutcomeUnknownError):
            await save(world, id_, "late")
    await save(world, "overtaken", "newer")
    await processor.run_once()
    assert await names(world) == {"alone": "first", "overtaken": "newer"}
    assert world.faults.held.release_all() == [Applied(200, 0), Applied(412, 0)]
    await processor.run_once()
    assert await names(world) == {"alone": "late", "overtaken": "newer"}
    assert await letters(world.engine) == []
