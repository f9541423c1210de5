"""One embedded server for all tests of this folder, a database of its own for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.local.cosmos.server import CosmosServer
from tests.cosmos.example import MAPPINGS, Kept, settings_for
from tests.cosmos.guarded_steps import writer_on
from tests.cosmos.steps import Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from core.cosmos.guarded import GuardedWriter
    from core.local.cosmos.faults import Faults


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
def faults(server: CosmosServer) -> Iterator[Faults]:
    """What goes wrong at the server, nothing before a test says so and nothing after it."""
    yield server.faults
    server.faults.clear()


@pytest.fixture
def seen(faults: Faults) -> Seen:
    """The requests that reach the server from now on, whoever sends them."""
    return Seen(faults)


@pytest.fixture
async def fresh_store(server: CosmosServer, store: CosmosStore) -> AsyncIterator[CosmosStore]:
    """The database of `store` by a client that has seen nothing of it."""
    async with open_cosmos(settings_for(server, cosmos_database=store.database)) as fresh:
        yield fresh


@pytest.fixture
def quarantine() -> Kept:
    return Kept()


@pytest.fixture
def writer(store: CosmosStore, quarantine: Kept) -> GuardedWriter:
    return writer_on(store, quarantine)
