"""One contract, every store: `db` runs each test of this folder on Postgres and on Cosmos DB."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.domain.mappings import MAPPINGS
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.settings import Settings
from tests.contract.stores import CosmosDb, Db, PostgresDb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stores import CosmosServer, PostgresServer


@pytest.fixture(scope="session")
async def postgres_db(postgres_server: PostgresServer, template_database: str) -> AsyncIterator[PostgresDb]:
    """One database for the whole folder; each test finds it empty."""
    dsn = await postgres_server.create_database(f"contract_{uuid.uuid4().hex}", template=template_database)
    async with open_engine(Settings.load(postgres_dsn=dsn)) as engine:
        await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="tests", why="contract")
        yield PostgresDb(engine, Mappings(MAPPINGS))


@pytest.fixture
async def empty_postgres(postgres_db: PostgresDb) -> PostgresDb:
    """The folder's database, emptied."""
    await postgres_db.empty()
    return postgres_db


@pytest.fixture
async def empty_cosmos(cosmos_server: CosmosServer) -> AsyncIterator[CosmosDb]:
    """A new database, reached by a client of its own as a process has it."""
    mappings = Mappings(MAPPINGS)
    settings = Settings.load(
        cosmos_endpoint=cosmos_server.endpoint,
        cosmos_key=cosmos_server.key,
        cosmos_database=f"contract_{uuid.uuid4().hex}",
    )
    async with open_cosmos(settings) as store:
        await store.provision(mappings)
        yield CosmosDb(store, mappings)


@pytest.fixture(params=["postgres", "cosmos"])
def db(request: pytest.FixtureRequest) -> Db:
    """An empty store."""
    store: Db = request.getfixturevalue(f"empty_{request.param}")
    return store
