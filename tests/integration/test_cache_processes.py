"""Every process that moves documents tells the cache, wired as it really is: what others wrote is read soon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from core.cosmos.containers import create_containers
from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.phases import Phase
from functions.bootstrap import bootstrap
from functions.runtime import Runtime
from functions.trigger_batches import take
from functions.triggers import Feeds, Trigger
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import make_primary, run
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.settings import Settings

TRIGGER = Trigger("mirror_Accounts", "Accounts", "mirror-", Feeds.MIRROR)


@pytest.fixture
def cached(settings: Settings, valkey: EmbeddedValkey) -> Settings:
    """Settings of all processes: with a cache, on a machine that is shared."""
    return settings.model_copy(update={"cache_url": SecretStr(valkey.url), "cache_timeout_ms": 1000})


@pytest.fixture
async def app(cached: Settings, cosmos: CosmosStore, mappings: Mappings) -> AsyncIterator[Crossfeed]:
    """An application that reads."""
    async with Crossfeed.open(cached, mappings) as db:
        yield db


async def name(db: Crossfeed) -> str | None:
    async with db.unit_of_work() as work:
        found = await work[Account].get_by_id("a")
        return None if found is None else found.display_name


async def until_cached(db: Crossfeed) -> None:
    assert db.cache is not None
    before = db.cache.hits
    while db.cache.hits == before:
        assert await name(db) == "old"


async def test_the_relay_tells_what_raw_sql_wrote(app: Crossfeed, cached: Settings, engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id, display_name) VALUES ('a', 'old')")
    async with bootstrap(cached) as application:
        await application.relay.drain()
        await until_cached(app)
        await run(engine, "UPDATE accounts SET display_name = 'new'")
        assert await name(app) == "old", "nobody knows yet"
        await application.relay.drain()
        assert await name(app) == "new"
        await run(engine, "DELETE FROM accounts")
        await application.relay.drain()
        assert await name(app) is None


@pytest.fixture
async def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    """Cosmos DB as the primary, and a foreign writer."""
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    steps = Steps(engine, cosmos, mappings, ACCOUNTS)
    await steps.add(Account(id="a", display_name="old"))
    return steps


async def test_the_mirror_tells_what_a_foreign_writer_wrote(app: Crossfeed, cached: Settings, steps: Steps) -> None:
    async with bootstrap(cached) as application:
        await application.processor.run_once()
        await until_cached(app)
        await steps.foreign({"id": "a", "DisplayName": "new"})
        assert await name(app) == "old", "nobody knows yet"
        await application.processor.run_once()
        assert await name(app) == "new"


async def test_a_trigger_of_the_functions_app_tells_what_a_foreign_writer_wrote(
    app: Crossfeed, cached: Settings, steps: Steps
) -> None:
    own = steps.store.own.leases
    await create_containers(steps.store.client.get_database_client(steps.store.database), [], [own], None)
    await until_cached(app)
    runtime = Runtime(load=lambda: cached)
    try:
        await steps.foreign({"id": "a", "DisplayName": "new"})
        assert await name(app) == "old", "nobody knows yet"
        await take(runtime, TRIGGER, json.dumps(steps.history[-1:]), 0)
        assert await name(app) == "new"
    finally:
        await runtime.close()
