"""One embedded Cosmos DB server per test, in process, spoken to through the real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from core.local.cosmos import CosmosServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from azure.cosmos.aio import ContainerProxy, DatabaseProxy


@pytest_asyncio.fixture
async def server() -> AsyncIterator[CosmosServer]:
    async with CosmosServer() as server:
        yield server


@pytest_asyncio.fixture
async def client(server: CosmosServer) -> AsyncIterator[CosmosClient]:
    async with CosmosClient(server.endpoint, server.key, retry_total=0) as client:
        yield client


@pytest_asyncio.fixture
async def database(client: CosmosClient) -> DatabaseProxy:
    return await client.create_database("db")


@pytest_asyncio.fixture
async def container(database: DatabaseProxy) -> ContainerProxy:
    """Two physical partitions by `/pk`, with TTL on."""
    return await database.create_container("items", PartitionKey("/pk"), default_ttl=-1, offer_throughput=12_000)
