"""The flaws that the caches before this one had, each with the test that it would fail.

The cache entry of the *old* e-mail left behind; a cache refill that races an invalidation.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import redis
from pydantic import SecretStr

from core.cache.client import open_cache
from core.cache.notices import Notices
from core.crossfeed import Crossfeed
from core.domain.account import Account, Accounts
from core.phases import Phase
from outbox.relay import Relay
from tests.chaos.network import network
from tests.integration.relay_steps import MemorySink, make_primary, run, until, waits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.repository import UnitOfWork
    from core.settings import Settings

OLD, NEW = "old@example.org", "New@example.org"


@dataclass
class World:
    """Processes that share one Postgres and one Valkey."""

    settings: Settings
    engine: AsyncEngine
    mappings: Mappings
    valkey: EmbeddedValkey

    @asynccontextmanager
    async def process(self, url: str | None = None) -> AsyncIterator[Crossfeed]:
        told = self.settings.model_copy(update={"cache_url": SecretStr(url or self.valkey.url)})
        async with Crossfeed.open(told, self.mappings) as db:
            yield db

    async def relay(self) -> None:
        """Let what is in the log be told to the cache."""
        told = self.settings.model_copy(update={"cache_url": SecretStr(self.valkey.url)})
        async with open_cache(told, self.mappings) as cache:
            await Relay(self.settings, self.mappings, self.engine, MemorySink(), notices=Notices(cache)).drain()


@pytest.fixture
async def world(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, valkey: EmbeddedValkey, cosmos: object
) -> World:
    await make_primary(engine)
    return World(settings, engine, mappings, valkey)


async def by_id(db: Crossfeed, id_: str) -> str | None:
    """Return the display name of an account."""
    async with db.unit_of_work() as work:
        found = await work[Account].get_by_id(id_)
        return None if found is None else found.display_name


async def by_email(db: Crossfeed, email: str) -> str | None:
    """Return the id of the account that has an e-mail."""
    async with db.unit_of_work() as work:
        found = await work.of(Accounts).get_by_email(email)
        assert (found is not None) == await work.of(Accounts).exists_by_email(email)
        return None if found is None else found.id


async def change(db: Crossfeed, id_: str, **values: str) -> None:
    async def use_case(work: UnitOfWork) -> None:
        found = await work[Account].get_by_id(id_)
        assert found is not None
        await work[Account].update(found.model_copy(update=values))
        await work.commit()

    await db.transact(use_case)


@pytest.mark.parametrize("who", ["another process", "raw SQL", "raw SQL in postgres_only"])
async def test_flaw_the_entry_of_the_old_email_left_behind(world: World, who: str) -> None:
    if "postgres_only" in who:
        await make_primary(world.engine, Phase.POSTGRES_ONLY)
    await run(world.engine, f"INSERT INTO accounts (id, email) VALUES ('a', '{OLD}')")
    async with world.process() as reader, world.process() as writer, world.process() as fresh:
        assert reader.cache is not None
        while not reader.cache.negative_hits:  # then all three answers are cached: nobody has the new one
            assert await by_id(reader, "a") == ""
            assert await by_email(reader, OLD.upper()) == "a"
            assert await by_email(reader, NEW) is None
        if who == "another process":
            await change(writer, "a", email=NEW)
        else:
            await run(world.engine, f"UPDATE accounts SET email = '{NEW}' WHERE id = 'a'")
            await world.relay()
        for db in (fresh, reader):  # one of them has seen nothing before, and believes what is cached
            for _ in range(2):
                assert await by_email(db, NEW.lower()) == "a"
                assert await by_email(db, OLD) is None
        await run(world.engine, f"INSERT INTO accounts (id, email) VALUES ('b', '{OLD}')")
        await world.relay()
        for db in (fresh, reader):
            assert await by_email(db, OLD) == "b"


@pytest.mark.parametrize("meanwhile", ["nothing", "somebody fills the new state", "the entry is evicted"])
async def test_flaw_a_refill_that_races_an_invalidation(world: World, meanwhile: str) -> None:
    await run(world.engine, "INSERT INTO accounts (id, display_name) VALUES ('a', 'old'), ('b', 'other')")
    address = urlsplit(world.valkey.url)
    assert address.port is not None
    with redis.Redis.from_url(world.valkey.url) as admin:
        async with network(address.port) as between:
            far = address._replace(netloc=address.netloc.replace(str(address.port), str(between.port))).geturl()
            async with world.process(far) as slow:
                await filled(slow, "b")  # Valkey knows the scripts
                async with world.engine.begin() as holding:
                    await holding.exec_driver_sql("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
                    reading = asyncio.ensure_future(by_id(slow, "a"))
                    await until(lambda: waits(world.engine))
                    between.hold()
                assert await reading == "old"  # what it fills is under way
                async with world.process() as quick:
                    await change(quick, "a", display_name="new")
                    if meanwhile == "somebody fills the new state":
                        assert await by_id(quick, "a") == "new"
                if meanwhile == "the entry is evicted":
                    admin.flushall()
                calls = evaluated(admin)
                between.go_on()
                await until(lambda: evaluated(admin) > calls)
            async with world.process() as another:
                for _ in range(2):
                    assert await by_id(another, "a") == "new"


async def filled(db: Crossfeed, id_: str) -> None:
    """Read an account until what was read is cached."""
    assert db.cache is not None
    while not db.cache.hits:
        await by_id(db, id_)
        await asyncio.sleep(0.01)


def evaluated(admin: redis.Redis) -> int:
    """How many scripts Valkey has run."""
    told = admin.info("commandstats")
    assert isinstance(told, dict)
    return sum(told.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
