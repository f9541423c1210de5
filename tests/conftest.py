"""The stores that every test shares: one Postgres and one Cosmos DB for the run, a fresh database per test."""

from __future__ import annotations

import asyncio
import gc
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from core.cosmos.client import CosmosStore, open_cosmos
from core.domain.mappings import MAPPINGS
from core.local.cosmos import CosmosServer
from core.local.valkey import EmbeddedValkey
from core.mappings import Mappings
from core.postgres.engine import open_engine
from core.settings import Settings
from tests import stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

hypothesis_settings.register_profile(
    "default",
    max_examples=40,  # of what says nothing else; `make chaos` looks at many more
    deadline=None,  # the machine is shared
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=False,
    print_blob=True,
)
hypothesis_settings.register_profile("thorough", hypothesis_settings.get_profile("default"), max_examples=1000)
hypothesis_settings.load_profile("default")


def pytest_collection_finish() -> None:
    """What is loaded now stays: collecting garbage a thousand times need not look through it, a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Undo what a command that ran in this process did to the logging of it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[stores.PostgresServer]:
    """One real Postgres for the whole run."""
    with stores.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def cosmos_server() -> Iterator[stores.CosmosServer]:
    """One Cosmos DB account for the whole run."""
    with stores.cosmos() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[EmbeddedValkey]:
    """One real Valkey for the whole run."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: EmbeddedValkey) -> EmbeddedValkey:
    """An empty Valkey; `url` is for clients."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server


@pytest.fixture
def own_valkey() -> Iterator[EmbeddedValkey]:
    """A Valkey of the test's own, which it may `kill`, `start` again, or stop in time while `frozen`."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres_server: stores.PostgresServer) -> str:
    """A database with the schema, the domain's tables and capture installed; each test gets a copy."""
    name = f"template_{uuid.uuid4().hex}"

    async def build() -> None:
        await stores.install(await postgres_server.create_database(name))

    asyncio.run(build())
    return name


@pytest.fixture(scope="session")
async def copies(postgres_server: stores.PostgresServer, template_database: str) -> AsyncIterator[stores.Copies]:
    """What makes and drops copies of the template database."""
    async with await psycopg.AsyncConnection.connect(postgres_server.dsn, autocommit=True) as connection:
        yield stores.Copies(connection, template_database)


@pytest.fixture
async def settings(
    postgres_server: stores.PostgresServer, copies: stores.Copies, cosmos_server: stores.CosmosServer
) -> AsyncIterator[Settings]:
    """Settings of a fresh installation: a Postgres database and a Cosmos DB database of its own."""
    name = f"test_{uuid.uuid4().hex}"
    await copies.create(name)
    yield Settings.load(
        postgres_dsn=urlsplit(postgres_server.dsn)._replace(path=f"/{name}").geturl(),
        cosmos_endpoint=cosmos_server.endpoint,
        cosmos_key=cosmos_server.key,
        cosmos_database=name,
        canary_every_s=0,  # or they would come in between whatever is counted
        mappings="core.domain.mappings:MAPPINGS",
    )
    # At once: what is gone soon is never written to the disk, and a thousand copies would be.
    await copies.drop(name)


@pytest.fixture
def mappings() -> Mappings:
    """The example domain's mappings."""
    return Mappings(MAPPINGS)


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine on the test's own database; the recorded phase is cosmos_only, epoch 1."""
    async with open_engine(settings) as opened:
        yield opened


@pytest.fixture
async def own_cosmos_server() -> AsyncIterator[CosmosServer]:
    """A Cosmos DB account of the test's own, in this process; `faults` are what goes wrong at it."""
    async with CosmosServer() as server:
        yield server


@pytest.fixture
async def cosmos(settings: Settings, mappings: Mappings) -> AsyncIterator[CosmosStore]:
    """The test's own Cosmos DB database, its containers provisioned."""
    async with open_cosmos(settings) as store:
        await store.provision(mappings)
        yield store
