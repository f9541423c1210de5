"""The relay while Cosmos DB fails in every way: everything arrives, once and in order, and no document is blamed."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.guarded import GuardedWriter
from core.envelope import Ours, author_of
from core.identity import Identity
from core.local.cosmos.faults import Budget, ByVersions, Down, Lag, Match, Operation, Refuse, Rule
from core.local.cosmos.faults.registry import MAX_SEED
from outbox.relay import Relay, open_relay
from tests.integration.fault_steps import Spell, all_versions, keep_versions, pass_through, weather
from tests.integration.relay_steps import connect, differences, letters, make_primary, run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.cosmos import CosmosServer
    from core.local.cosmos.faults import Faults
    from core.mappings import Mappings
    from core.settings import Settings

KEYS = 6
WRITES = (
    "INSERT INTO accounts (id) VALUES ('{run}-{serial}')",
    "INSERT INTO accounts (id) VALUES ('{run}-a{key}') ON CONFLICT (id) DO UPDATE SET email = accounts.email || 'x'",
    "UPDATE accounts SET email = 'short' WHERE id = '{run}-a{key}'",
    "DELETE FROM accounts WHERE id = '{run}-a{key}'",
    "INSERT INTO pending_signups (id, email) VALUES ('{run}-s{key}', '{run}-1') ON CONFLICT DO NOTHING",
    "UPDATE pending_signups SET email = '{run}-' || (email = '{run}-1')::int WHERE id = '{run}-s{key}'",
)


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share."""
    return own_cosmos_server


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"relay_page_size": 20, "relay_concurrency": 4, "relay_poll_max_ms": 10})


@pytest.fixture
async def cosmos(settings: Settings, mappings: Mappings) -> AsyncIterator[CosmosStore]:
    """Containers of two physical partitions each."""
    async with open_cosmos(settings) as store:
        await store.provision(mappings, throughput=12_000)
        yield store


@dataclass(frozen=True)
class World:
    """Both stores, what goes wrong at one of them, and a relay between them."""

    settings: Settings
    engine: AsyncEngine
    server: CosmosServer
    cosmos: CosmosStore
    mappings: Mappings
    relay: Relay

    @property
    def faults(self) -> Faults:
        return self.server.faults


@pytest.fixture
async def world(
    settings: Settings, engine: AsyncEngine, own_cosmos_server: CosmosServer, cosmos: CosmosStore, mappings: Mappings
) -> World:
    await make_primary(engine)
    keep_versions(own_cosmos_server, cosmos)
    relay = open_relay(settings, mappings, engine, cosmos)
    return World(settings, engine, own_cosmos_server, cosmos, mappings, relay)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    """Run the relay; fails if it ends by itself."""
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield
        assert not task.done(), "the relay has ended"
    finally:
        stop.set()
        await task


async def write(settings: Settings, run: str, seed: int, done: asyncio.Event) -> None:
    chance = random.Random(seed)
    serial = 0
    async with await connect(settings) as session:
        while not done.is_set():
            serial += 1
            statement: Any = chance.choice(WRITES).format(
                run=run, key=chance.randrange(KEYS), serial=f"{seed}-{serial}"
            )
            with suppress(psycopg.errors.UniqueViolation):
                await session.execute(statement)
            await asyncio.sleep(chance.uniform(0, 0.02))


async def check(world: World, run: str) -> None:
    """Everything that was written arrived; no document ever went back, or was written twice in one state."""
    for name in ("Account", "PendingSignup"):
        mapping = world.mappings.named(name)
        async with world.engine.connect() as connection:
            result = await connection.exec_driver_sql(
                "SELECT DISTINCT entity, partition_key, id FROM crossfeed.outbox WHERE entity = %(name)s"
                " AND starts_with(id, %(run)s)",
                {"name": name, "run": run},
            )
            identities = [Identity(*row) for row in map(tuple, result)]
        assert await differences(world.engine, world.cosmos, mapping, identities) == []
        versions = all_versions(world.server, world.cosmos, mapping)
        for identity in identities:
            authors = [author_of(document) for document in versions[identity]]
            stamps = [author.stamp for author in authors if isinstance(author, Ours)]
            assert len(stamps) == len(authors) > 0
            assert stamps == sorted(set(stamps)), f"{identity} went back, or one state of it was written twice"
    assert await letters(world.engine) == []


async def turmoil(world: World, spells: list[Spell], seed: int, spell_s: float) -> None:
    run = uuid.uuid4().hex[:8]
    done = asyncio.Event()
    async with running(world.relay), asyncio.TaskGroup() as writers:
        for number in range(2):
            writers.create_task(write(world.settings, run, number, done))
        await pass_through(world.server, world.cosmos, spells, seed, spell_s)
        done.set()
    await world.relay.drain()
    assert (world.relay.stats.dead_lettered, world.relay.stats.quarantined) == (0, 0)
    await check(world, run)


@hypothesis_settings(max_examples=3)
@given(spells=weather(2), seed=st.integers(0, MAX_SEED))
async def test_whatever_the_weather_everything_arrives_in_order(world: World, spells: list[Spell], seed: int) -> None:
    await turmoil(world, spells, seed, 0.15)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@hypothesis_settings(max_examples=60)
@given(spells=weather(5), seed=st.integers(0, MAX_SEED))
async def test_whatever_the_weather_everything_arrives_in_order_for_long(
    world: World, spells: list[Spell], seed: int
) -> None:
    await turmoil(world, spells, seed, 0.25)


async def test_what_a_budget_turns_away_arrives_and_counts_against_nobody(world: World) -> None:
    world.faults.add(Rule(do=Budget(ru_per_second=900, burst=20, per="container"), name="budget"))
    await run(world.engine, "INSERT INTO accounts (id) SELECT 'b' || n FROM generate_series(1, 30) n")
    await world.relay.drain()
    stats = world.relay.stats
    assert (stats.published, stats.unchanged, stats.superseded, stats.dead_lettered) == (30, 0, 0, 0)
    # The relay waited as it was asked, and with fewer requests at a time: few of them were turned away.
    assert 0 < world.faults.injected["budget"] < 60
    world.faults.clear()
    await check(world, "b")


async def test_the_wait_that_was_asked_for_is_not_cut_short(world: World) -> None:
    await run(world.engine, "INSERT INTO accounts (id) VALUES ('b')")
    creates = Match(operations=frozenset({Operation.CREATE}))
    world.faults.add(Rule(do=Refuse(status=429, retry_after_ms=200), on=creates, times=3, name="burst"))
    started = time.monotonic()
    await world.relay.drain()
    assert 0.6 <= time.monotonic() - started < 3
    assert world.faults.injected["burst"] == 3


async def parked(engine: AsyncEngine) -> list[int]:
    """The attempts that each parked document has used up."""
    async with engine.connect() as connection:
        return [row[0] for row in await connection.exec_driver_sql("SELECT attempts FROM crossfeed.parked")]


async def test_a_partition_that_is_down_holds_up_its_own_documents_alone_and_they_arrive_when_it_is_back(
    world: World,
) -> None:
    assert isinstance(world.relay._sink, GuardedWriter)
    world.relay._sink._persistence._patience_s = 0.3
    world.faults.add(Rule(do=Down(), on=Match(container="Accounts", range_id="0"), name="down"))
    async with running(world.relay):
        await run(
            world.engine,
            "INSERT INTO accounts (id) SELECT 'd' || n FROM generate_series(1, 30) n",
            "INSERT INTO pending_signups (id, email) SELECT 'd' || n, 'd' || n FROM generate_series(1, 30) n",
            "UPDATE accounts SET email = 'second'",
            "DELETE FROM accounts WHERE id = 'd7'",
        )
        await until(lambda: world.relay.stats.messages == 91)  # all of the log is read, and the cursor went on
        waiting = await parked(world.engine)
        assert 0 < len(waiting) < 30
        assert set(waiting) == {0}
        world.faults.clear()

        async def none_is_parked() -> bool:
            return not await parked(world.engine)

        await until(none_is_parked)
    await check(world, "d")


async def test_a_new_relay_on_a_replica_that_is_behind_waits_and_blames_nobody(world: World) -> None:
    """It knows no ETag and has no session: what it reads is older than what is there, or nothing at all."""
    world.faults.add(Rule(do=Lag(), on=Match(database="of nobody")))  # so that there is a past from here on
    inserted = "INSERT INTO accounts (id) SELECT 'l' || n FROM generate_series(1, 5) n"
    await run(world.engine, inserted, "UPDATE accounts SET email = 'one'")
    await world.relay.drain()
    await run(world.engine, "UPDATE accounts SET email = 'two' WHERE id < 'l4'", "DELETE FROM accounts WHERE id = 'l4'")
    behind = Lag(behind=ByVersions(least=9, most=9))
    world.faults.add(Rule(do=behind, on=Match(operations=frozenset({Operation.READ})), name="behind"))
    async with open_cosmos(world.settings) as fresh:
        second = open_relay(world.settings, world.mappings, world.engine, fresh)
        async with running(second):
            await until(lambda: world.faults.injected["behind"] > 7)
            world.faults.clear()
            await until(lambda: second.stats.messages > 0)
        assert (second.stats.dead_lettered, second.stats.quarantined) == (0, 0)
    await check(world, "l")


async def test_tombstones_that_cosmos_db_has_forgotten_leave_no_way_back(world: World) -> None:
    """Their TTL runs out in Cosmos DB; in Postgres they are still there, and the version goes on from them."""
    await run(
        world.engine,
        "INSERT INTO accounts (id) VALUES ('gone'), ('back')",
        "UPDATE accounts SET email = 'once'",
        "DELETE FROM accounts",
    )
    await world.relay.drain()
    world.server.account.clock.advance(world.settings.tombstone_ttl_s + 60)
    documents = CosmosDocuments(world.cosmos, world.mappings)
    accounts = world.mappings.named("Account")
    gone, back = (accounts.identity_of(id_, id_) for id_ in ("gone", "back"))
    assert await documents.read(gone) is None
    await run(world.engine, "INSERT INTO accounts (id) VALUES ('back')")
    await world.relay.drain()
    assert await documents.read(gone) is None
    assert await differences(world.engine, world.cosmos, accounts, [back]) == []
    versions = all_versions(world.server, world.cosmos, accounts)[back]
    # The first two states were coalesced with the delete.
    assert [author.stamp.version for author in map(author_of, versions) if isinstance(author, Ours)] == [3, 4]
    assert await letters(world.engine) == []
