"""One embedded server for all tests of this folder, a database of its own for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.local.cosmos.server import CosmosServer
from tests.cosmos.example import MAPPINGS, Kept, settings_for
from tests.cosmos.meddler import Meddler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[CosmosServer]:
    async with CosmosServer() as server:
        yield server


@pytest.fixture
async def store(server: CosmosServer) -> AsyncIterator[CosmosStore]:
    async with open_cosmos(settings_for(server)) as store:
        await store.provision(MAPPINGS)
        yield store


@pytest.fixture
def documents(store: CosmosStore) -> CosmosDocuments:
    return CosmosDocuments(store, MAPPINGS)


@pytest.fixture
async def meddler(server: CosmosServer) -> AsyncIterator[Meddler]:
    async with Meddler(server.host, server.port, server.key) as meddler:
        yield meddler


@pytest.fixture
async def meddled_store(meddler: Meddler, store: CosmosStore) -> AsyncIterator[CosmosStore]:
    """The database of `store`, reached through the meddler."""
    async with open_cosmos(settings_for(meddler, cosmos_database=store.database)) as through_meddler:
        yield through_meddler


@pytest.fixture
def quarantine() -> Kept:
    return Kept()
