"""Erasing a person reaches what is cached of them, and is misled by nothing that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import redis
from pydantic import SecretStr

from core.cache.client import open_cache
from core.crossfeed import Crossfeed
from core.domain.account import Account, Accounts
from core.domain.mappings import ACCOUNTS
from core.migration.erase import TTL_S, erase
from outbox.publisher import Publisher
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.migration.erase import Erased
    from core.settings import Settings

SECRET = "somebody-in-particular"
EMAIL = f"{SECRET}@example.org"


@dataclass
class Place:
    """One installation with a cache."""

    settings: Settings
    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings

    async def erase(self, id_: str) -> Erased:
        parts = self.engine, self.store, self.mappings, self.settings
        async with open_cache(self.settings, self.mappings) as cache:
            return await erase(*parts, Publisher(*parts), ACCOUNTS.identity_of(id_, id_), cache)

    async def found(self, *, often: bool = False) -> tuple[bool, bool]:
        """Whether a process finds the account by its id, and by its e-mail; `often`: until what it finds is cached."""
        async with Crossfeed.open(self.settings, self.mappings) as db:
            assert db.cache is not None
            while True:
                async with db.unit_of_work() as work:
                    by_id = await work[Account].get_by_id("a") is not None
                    by_email = await work.of(Accounts).get_by_email(EMAIL) is not None
                if not often or db.cache.hits > 1:
                    return by_id, by_email


@pytest.fixture
async def place(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, own_valkey: EmbeddedValkey
) -> Place:
    await make_primary(engine)
    cached = {"cache_url": SecretStr(own_valkey.url), "tombstone_ttl_s": TTL_S, "cache_timeout_ms": 1000}
    return Place(settings.model_copy(update=cached), engine, cosmos, mappings)


async def test_nothing_of_an_erased_person_stays_in_the_cache(place: Place, own_valkey: EmbeddedValkey) -> None:
    await run(place.engine, f"INSERT INTO accounts (id, email, display_name) VALUES ('a', '{EMAIL}', '{SECRET}')")
    assert await place.found(often=True) == (True, True)
    with redis.Redis.from_url(own_valkey.url) as admin:
        assert SECRET in str([admin.hgetall(key) for key in admin.scan_iter()])
        assert (await place.erase("a")).cache == "removed"
        assert SECRET not in str([admin.hgetall(key) for key in admin.scan_iter()])
    assert await place.found() == (False, False)
    assert (await place.erase("a")).cache == "empty"


async def test_a_person_whom_the_cache_does_not_know_is_erased_from_the_stores(place: Place) -> None:
    assert await place.found(often=True) == (False, False)
    await run(place.engine, f"INSERT INTO accounts (id, email) VALUES ('a', '{EMAIL}')")  # and no relay tells it
    assert await place.found() == (False, False)
    erased = await place.erase("a")
    assert (erased.was_there, erased.row) == (True, "tombstone")


async def test_an_erasure_that_cannot_reach_the_cache_says_so_and_is_not_complete(
    place: Place, own_valkey: EmbeddedValkey
) -> None:
    own_valkey.kill()
    erased = await place.erase("never-there")
    assert (erased.cache, erased.is_complete) == ("unreachable", False)
    own_valkey.start()
    again = await place.erase("never-there")
    assert (again.cache, again.is_complete) == ("empty", True)


async def test_without_a_cache_the_report_says_that_there_is_none(place: Place) -> None:
    place.settings = place.settings.model_copy(update={"cache_url": None})
    assert (await place.erase("never-there")).cache == "none"
