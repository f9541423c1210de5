"""One embedded Cosmos DB server per test, in process, spoken to through the real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from core.local.cosmos import CosmosServer
from tests.local_cosmos.raw import RawContainer, raw_container
from tests.local_cosmos.storage_steps import filled_account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

    from core.local.cosmos.faults import Faults
    from core.local.cosmos.state.account import Account


@pytest_asyncio.fixture
async def server() -> AsyncIterator[CosmosServer]:
    async with CosmosServer() as server:
        yield server


@pytest.fixture
def faults(server: CosmosServer) -> Faults:
    """The faults of the server, which replay: their seed is fixed."""
    server.faults.seed = 1
    return server.faults


@pytest_asyncio.fixture
async def raw(server: CosmosServer) -> AsyncIterator[RawContainer]:
    """A container `wire/raw` of two physical partitions by `/pk`, with TTL on, spoken to request by request."""
    async with raw_container(server) as raw:
        yield raw


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


@pytest.fixture
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test may keep an account."""
    return tmp_path / "account.db"


@pytest.fixture
def account(file: Path) -> Iterator[Account]:
    """An account in a file, without a server (tests.local_cosmos.storage_steps)."""
    account = filled_account(file)
    yield account
    account.close()
