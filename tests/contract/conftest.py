"""One contract, every store: `db` runs each test here on Postgres, on Cosmos DB, routed in every phase, and cached."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from core.cache.client import open_cache
from core.cosmos.client import open_cosmos
from core.domain.mappings import MAPPINGS
from core.envelope import Origin
from core.mappings import Mappings
from core.migration.routing import Routing
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.settings import Settings
from tests.contract.stores import CachedDb, CosmosDb, Db, PostgresDb, RoutedDb
from tests.integration.routing_steps import barrier_of, enter_phase_2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.cosmos.client import CosmosStore
    from core.local.valkey import EmbeddedValkey
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


@asynccontextmanager
async def routed(
    primary: PostgresDb | CosmosDb, seeded: Db, phase: PhaseRow, postgres: PostgresDb, cosmos: CosmosDb
) -> AsyncIterator[RoutedDb]:
    """Open what an application has of both stores in a phase."""

    async def store() -> CosmosStore:
        return cosmos.store

    settings = Settings.load(shadow_read_share=1.0 if phase.phase is Phase.DUAL_WRITE_COSMOS_READ else 0.0)
    async with Routing(postgres.engine, Mappings(MAPPINGS), store, settings) as routing:
        yield RoutedDb(primary, seeded, routing, phase)


@pytest.fixture(scope="session")
async def left_behind(
    postgres_server: PostgresServer, template_database: str
) -> AsyncIterator[tuple[PostgresDb, PhaseRow]]:
    """A database for the whole folder: Postgres is the primary, and what was there before is in Cosmos DB alone."""
    dsn = await postgres_server.create_database(f"contract_{uuid.uuid4().hex}", template=template_database)
    mappings = Mappings(MAPPINGS)
    async with open_engine(Settings.load(postgres_dsn=dsn)) as engine:
        phase = await enter_phase_2(engine, barrier=barrier_of(mappings))
        yield PostgresDb(engine, mappings), phase


@pytest.fixture
async def empty_left_behind(
    left_behind: tuple[PostgresDb, PhaseRow], empty_cosmos: CosmosDb
) -> AsyncIterator[RoutedDb]:
    """Phase 2 after a switch that left behind what is seeded."""
    postgres, phase = left_behind
    await postgres.empty()
    async with routed(postgres, empty_cosmos, phase, postgres, empty_cosmos) as db:
        yield db


@pytest.fixture
async def empty_cached(empty_postgres: PostgresDb, valkey: EmbeddedValkey) -> AsyncIterator[CachedDb]:
    """Postgres, read through the cache."""
    async with cached(empty_postgres, PhaseRow(Phase.POSTGRES_ONLY, 1, PhaseState.STEADY), valkey) as db:
        yield db


@pytest.fixture
async def empty_cached_cosmos(empty_cosmos: CosmosDb, valkey: EmbeddedValkey) -> AsyncIterator[CachedDb]:
    """Cosmos DB, read through the cache."""
    async with cached(empty_cosmos, PhaseRow(Phase.COSMOS_ONLY, 1, PhaseState.STEADY), valkey) as db:
        yield db


@pytest.fixture
async def empty_cached_left_behind(empty_left_behind: RoutedDb, valkey: EmbeddedValkey) -> AsyncIterator[CachedDb]:
    """Phase 2 after a switch that left behind what is seeded, read through the cache."""
    async with cached(empty_left_behind, empty_left_behind.phase, valkey) as db:
        yield db


@asynccontextmanager
async def cached(db: Db, phase: PhaseRow, valkey: EmbeddedValkey) -> AsyncIterator[CachedDb]:
    """Put a cache before a store; its time limit is one that a busy machine keeps."""
    settings = Settings.load(cache_url=valkey.url, cache_timeout_ms=5000)
    async with open_cache(settings, Mappings(MAPPINGS)) as cache:
        assert cache is not None
        yield CachedDb(db, cache, phase)
        assert not cache.stats.errors


def _in_phase(phase: Phase) -> Any:
    """Return the fixture of a phase whose primary holds everything."""

    @pytest.fixture(name=f"empty_{phase.label}")
    async def empty(empty_postgres: PostgresDb, empty_cosmos: CosmosDb) -> AsyncIterator[RoutedDb]:
        primary, epoch = (empty_postgres, 2) if phase.primary is Origin.POSTGRES else (empty_cosmos, 1)
        row = PhaseRow(phase, epoch, PhaseState.STEADY)
        async with routed(primary, primary, row, empty_postgres, empty_cosmos) as db:
            yield db

    return empty


_phases = [_in_phase(phase) for phase in Phase]
empty_cosmos_only, empty_dual_write_cosmos_read, empty_dual_write_postgres_read, empty_postgres_only = _phases


@pytest.fixture
def db(request: pytest.FixtureRequest) -> Db:
    """An empty store."""
    store: Db = request.getfixturevalue(f"empty_{request.param}")
    return store


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on both stores, and in `make chaos` on what is made of them; of that, look-ups always."""
    if "db" in metafunc.fixturenames:
        left_behind = () if metafunc.module.__name__.endswith("test_lookups") else (pytest.mark.chaos,)
        phases = (pytest.param(phase.label, marks=pytest.mark.chaos) for phase in Phase)
        # What is refused, and what comes of events, a cache has no part in.
        module = metafunc.module.__name__.rpartition(".")[2]
        cached = pytest.mark.chaos if module in {"test_refusals", "test_events", "test_use_cases"} else ()
        behind = (pytest.param(f"cached_{store}", marks=pytest.mark.chaos) for store in ("cosmos", "left_behind"))
        stores = ["postgres", "cosmos", pytest.param("left_behind", marks=left_behind), *phases]
        stores += [pytest.param("cached", marks=cached), *behind]
        metafunc.parametrize("db", stores, indirect=True)
