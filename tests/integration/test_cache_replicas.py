"""A replica of Cosmos DB that is behind shows nobody less than the cache has shown him."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.errors import StoreUnavailableError
from core.local.cosmos.faults import Lag, Match, Rule
from tests.integration.cache_steps import account
from tests.integration.test_cache_stores import added, get, renamed, two
from tests.integration.test_validation_at_rest import _lagging

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.cosmos import CosmosServer
    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.settings import Settings


async def test_whoever_was_shown_a_state_by_the_cache_is_shown_none_before_it_by_a_replica(
    settings: Settings,
    valkey: EmbeddedValkey,
    engine: AsyncEngine,
    mappings: Mappings,
    own_cosmos_server: CosmosServer,
) -> None:
    here = settings.model_copy(
        update={
            "cosmos_endpoint": own_cosmos_server.endpoint,
            "cosmos_key": SecretStr(own_cosmos_server.key),
            "cache_url": SecretStr(valkey.url),
            "cache_timeout_ms": 5000,
        }
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
    own_cosmos_server.faults.add(Rule(do=Lag(), on=Match(database="of nobody"), name="past"))
    async with two(here, mappings) as (one, other):
        await added(one, account("a", "old", email="a@example.org"))
        await renamed(one, "new")
        await get(one)
        await get(other)
        assert other.cache is not None
        assert other.cache.hits == 1
        with redis.Redis.from_url(valkey.url) as server:
            server.flushall()
        own_cosmos_server.faults.add(_lagging(1))
        with pytest.raises(StoreUnavailableError):  # all replicas are behind: there is no answer that is not older
            await get(other)
        own_cosmos_server.faults.clear()
        found = await get(other)
        assert found is not None
        assert found.display_name == "new"
