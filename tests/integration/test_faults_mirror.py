"""Writers, feed and mirror while Cosmos DB fails in every way: outcomes are true, rows follow, none goes back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.cosmos.client import open_cosmos
from core.domain.account import Account
from core.errors import OutcomeUnknownError, TransientError
from core.local.cosmos.faults import Applied, ByVersions, Down, Hold, Lag, Match, Operation, Rule
from core.local.cosmos.faults.registry import MAX_SEED
from core.phases import Phase
from tests.integration.fault_steps import Spell, keep_versions, weather
from tests.integration.mirror_turmoil import World, running, turmoil
from tests.integration.relay_steps import letters, make_primary, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings


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


@pytest.fixture
async def world(
    settings: Settings, engine: AsyncEngine, own_cosmos_server: CosmosServer, cosmos: CosmosStore, mappings: Mappings
) -> World:
    keep_versions(own_cosmos_server, cosmos)
    phase = await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    return World(settings, engine, own_cosmos_server, cosmos, mappings, phase.epoch)


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
