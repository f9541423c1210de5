"""The processor's ranges on a real feed: split without loss or gap, shared, handed over, and none waits for another."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from changefeed.ports import Feed
from changefeed.processor import Processor
from core.cosmos import feed as feed_module
from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.errors import ConcurrencyError, StoreUnavailableError
from core.local.cosmos.faults import Delay, Down, Match, Operation, Refuse, Rule, Uniform
from core.phases import Phase
from tests.integration.feed_steps import Remembering
from tests.integration.relay_steps import make_primary, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings

FEED = "test/Accounts"


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share."""
    return own_cosmos_server


@dataclass(frozen=True)
class World:
    """A feed of accounts beside the mirror's."""

    settings: Settings
    engine: AsyncEngine
    server: CosmosServer
    store: CosmosStore
    mappings: Mappings

    def processor(
        self, applier: Remembering, *, store: CosmosStore | None = None, lease_s: float = 1.0, page_size: int = 10
    ) -> Processor:
        container = (store or self.store).container(ACCOUNTS)
        feeds = [Feed(FEED, container, "Accounts", applier, page_size)]
        return Processor(self.engine, store or self.store, self.mappings, poll_ms=10, lease_s=lease_s, feeds=feeds)

    def split(self, number: int = 0) -> None:
        container = self.server.account.container(self.store.database, "Accounts")
        container.split(container.partitions[number].id)

    async def write(self, *ids: str) -> None:
        for id_ in ids:
            await self.store.container(ACCOUNTS).upsert_item({"id": id_})

    async def ranges(self) -> list[tuple[Any, ...]]:
        """Bounds and owner of the feed's ranges."""
        async with self.engine.connect() as connection:
            rows = await connection.exec_driver_sql(
                "SELECT lower_bound, upper_bound, owner FROM crossfeed.feed_range"
                f" WHERE feed = '{FEED}' ORDER BY lower_bound"
            )
            return [tuple(row) for row in rows]


@pytest.fixture
async def world(
    settings: Settings, engine: AsyncEngine, own_cosmos_server: CosmosServer, cosmos: CosmosStore, mappings: Mappings
) -> World:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    return World(settings, engine, own_cosmos_server, cosmos, mappings)


@asynccontextmanager
async def running(*processors: Processor) -> AsyncIterator[None]:
    """Run processors; fails if one ends by itself."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(processor.run(stop)) for processor in processors]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_ranges_that_are_split_again_and_again_lose_nothing_and_read_nothing_twice(world: World) -> None:
    applier = Remembering(world.engine)
    ids = [f"a{number}" for number in range(120)]
    async with running(world.processor(applier)):
        for number, id_ in enumerate(ids):
            await world.write(id_)
            if number in {30, 60, 90}:
                world.split(number % 2)
        await until(lambda: len(applier.seen) == len(ids))
        await until(lambda: _is_whole(world, 4))
    assert sum(map(len, applier.seen.values())) == len(ids), "something was read twice"


async def _is_whole(world: World, ranges: int) -> bool:
    found = await world.ranges()
    assert [lower for lower, *_ in found] == ["", *(upper for _, upper, _ in found[:-1])]
    return len(found) == ranges


async def test_parts_begin_where_the_range_was_for_a_processor_that_starts_after_the_split(world: World) -> None:
    await world.write(*(f"a{number}" for number in range(40)))
    first = Remembering(world.engine)
    await world.processor(first).run_once()
    world.split()
    world.split(1)
    await world.write("b1", "b2")
    async with open_cosmos(world.settings) as fresh:
        second = Remembering(world.engine)
        await world.processor(second, store=fresh).run_once()
    assert sorted(second.seen) == ["b1", "b2"]
    assert len(await world.ranges()) == 3


async def test_a_split_in_the_first_pass_is_resumed_though_a_part_was_not_visited_yet(world: World) -> None:
    """The client cannot resume such a position: it takes the part that was not visited for an error."""
    await world.write(*(f"a{number}" for number in range(60)))
    applier = Remembering(world.engine)

    async def split_once(*_: object) -> None:
        if len(applier.pages) == 1:
            world.split()
            applier.before = None
            raise ZeroDivisionError

    async with open_cosmos(world.settings) as fresh:
        applier.before = split_once
        for _ in range(2):
            try:
                await world.processor(applier, store=fresh).run_once()
                break
            except ZeroDivisionError:
                pass
    assert len(applier.seen) == 60


async def test_processors_share_the_ranges_and_what_one_lets_go_at_its_end_is_read_at_once(world: World) -> None:
    async with open_cosmos(world.settings) as other_store:
        one, other = Remembering(world.engine), Remembering(world.engine)
        leaving, staying = world.processor(one, lease_s=8), world.processor(other, store=other_store, lease_s=8)
        async with running(staying):
            async with running(leaving):
                await until(lambda: len(leaving.leases.held) in {2, 3} and len(staying.leases.held) in {2, 3})
                assert len(leaving.leases.held) + len(staying.leases.held) == 5
                assert leaving.health().processors == 2
                await world.write("a1")
                await until(lambda: len(one.seen) + len(other.seen) == 1)
            begun = asyncio.get_running_loop().time()
            await until(lambda: len(staying.leases.held) == 5)
            await world.write("a2")
            await until(lambda: "a2" in other.seen)
            assert asyncio.get_running_loop().time() - begun < 4, "it waited for the lease to end"
    async with world.engine.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.feed_processor")
        assert rows.scalar_one() == 0


async def test_what_is_let_go_is_not_followed_any_more_and_what_could_not_be_let_go_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cosmos(world.settings) as other_store:
        full = world.processor(Remembering(world.engine))
        other = world.processor(Remembering(world.engine), store=other_store)
        let_go, outage = full.leases.let_go, [StoreUnavailableError("away"), ConcurrencyError("a deadlock")]

        async def failing(*args: Any) -> None:
            if outage:
                raise outage.pop()
            await let_go(*args)

        monkeypatch.setattr(full.leases, "let_go", failing)
        async with running(full):
            await until(lambda: len(full.health().ranges) == 5)
            async with running(other):
                await until(lambda: len(full.health().ranges) == 3 and len(other.health().ranges) == 2)
    assert outage == []


async def test_a_range_whose_batches_hang_or_fail_holds_back_no_other_and_stops_with_the_grace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("changefeed.processor.GRACE_S", 0.3)
    applier = Remembering(world.engine)

    async def hang(_: str, documents: Sequence[Document]) -> None:
        if any(document["id"] == "hangs" for document in documents):
            await asyncio.Event().wait()

    applier.before = hang
    world.split()
    processor = world.processor(applier)
    ids = [f"a{number}" for number in range(12)]
    async with running(processor):
        await world.write("hangs")
        await asyncio.sleep(0.1)
        await world.write(*ids)
        container = world.server.account.container(world.store.database, "Accounts")
        [free] = [
            {document.id for document in partition.by_rid.values()}
            for partition in container.partitions
            if not any(document.id == "hangs" for document in partition.by_rid.values())
        ]
        assert free
        await until(lambda: applier.seen.keys() >= free)
        behind = {item.feed_range: item for item in processor.health().ranges if item.feed == FEED and item.behind}
        assert len(behind) == 1
        assert next(iter(behind.values())).lag_s > 0
    assert "hangs" not in applier.seen
    applier.before = None
    await processor.run_once()
    assert applier.seen.keys() >= {*ids, "hangs"}


async def test_the_next_page_is_read_while_the_last_one_commits(world: World) -> None:
    await world.write(*(f"a{number}" for number in range(30)))
    applier = Remembering(world.engine)
    reads: list[int] = []
    container = world.store.container(ACCOUNTS)

    async def look(*_: object) -> None:
        before = world.server.faults.injected["count"]
        await asyncio.sleep(0.15)
        reads.append(world.server.faults.injected["count"] - before)

    world.server.faults.add(
        Rule(
            do=Delay(duration=Uniform(most=0.001)),
            on=Match(operations=frozenset({Operation.FEED}), container=container.id),
            name="count",
        )
    )
    applier.before = look
    await world.processor(applier).run_once()
    assert applier.pages == [10, 10, 10]
    assert reads[:2] == [1, 1]


async def test_a_client_that_waits_for_its_own_lock_is_freed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "ANSWER_S", 0.3)
    applier = Remembering(world.engine)
    gone = Rule(do=Refuse(status=410, substatus=1002), on=Match(operations=frozenset({Operation.RANGES})), name="gone")
    async with open_cosmos(world.settings) as fresh:
        processor = world.processor(applier, store=fresh)
        world.server.faults.add(gone)
        await world.write("a")
        async with running(processor):
            await until(lambda: processor.stats.retries["CosmosUnavailableError"] >= 1)
            world.server.faults.clear()
            await until(lambda: "a" in applier.seen)


async def test_a_partition_that_is_down_is_named_and_its_lag_grows(world: World) -> None:
    world.split()
    applier = Remembering(world.engine)
    processor = world.processor(applier)
    container = world.server.account.container(world.store.database, "Accounts")
    async with running(processor):
        await until(lambda: sum(item.feed == FEED for item in processor.health().ranges) == 2)
        down = Match(container="Accounts", range_id=container.partitions[0].id)
        world.server.faults.add(Rule(do=Down(), on=down, name="down"))
        await until(lambda: any(item.error for item in processor.health().ranges))
        await asyncio.sleep(0.3)
        stuck = [item for item in processor.health().ranges if item.error]
        assert {item.error for item in stuck} == {"CosmosUnavailableError"}
        assert all(item.lag_s > 0.25 and item.progress_age_s > 0.25 for item in stuck)
        await until(lambda: all(item.lag_s < 0.25 for item in processor.health().ranges if not item.error))
