"""One installation and one worker for all of these tests: a database, an account, a process that runs the app."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.cosmos.containers import create_containers
from core.cosmos.feed import feed_ranges
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.settings import Settings
from functions.triggers import APP_SETTINGS
from tests.functions.host import Lease, Listener, Worker, deploy
from tests.integration.mirror_steps import Steps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from tests import stores

CONSUMERS = "core.domain.welcomes:HANDLERS"


@dataclass
class Installation:
    """The stores that the worker works on, and the worker."""

    settings: Settings
    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    deployed: Path
    worker: Worker

    async def leases(self, container: str) -> list[Lease]:
        """Return a lease per feed range, which stands where the feed ends now."""
        proxy = self.store.container_named(container)
        return [await Lease(proxy, item).skip_to_now() for item in await feed_ranges(proxy)]

    async def listeners(self, container: str, function: str | None = None) -> list[Listener]:
        found = await self.leases(container)
        return [Listener(self.worker, function or f"mirror_{container}", lease) for lease in found]


@pytest.fixture
def steps(installation: Installation) -> Steps:
    """Look at accounts."""
    return Steps(installation.engine, installation.store, installation.mappings, ACCOUNTS)


def environment_of(settings: Settings, **changed: str) -> dict[str, str]:
    """Return the application settings of an installation, as Azure hands them to a worker."""
    assert settings.postgres_dsn is not None
    assert settings.cosmos_key is not None
    found = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFEED_")}
    found |= {f"CROSSFEED_{name.upper()}": str(getattr(settings, name)) for name in APP_SETTINGS}
    return found | {
        "CROSSFEED_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "COSMOS__accountEndpoint": str(settings.cosmos_endpoint),
        "CROSSFEED_COSMOS_KEY": settings.cosmos_key.get_secret_value(),
        "CROSSFEED_MAPPINGS": "core.domain.mappings:MAPPINGS",
        "CROSSFEED_CONSUMERS": CONSUMERS,
        "CROSSFEED_RECONCILE_LAG_S": "0",
        **changed,
    }


@pytest.fixture(scope="session")
async def installation(
    postgres_server: stores.PostgresServer,
    template_database: str,
    cosmos_server: stores.CosmosServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Installation]:
    """Phase dual_write_cosmos_read; the container Accounts has two feed ranges."""
    name = f"functions_{uuid.uuid4().hex}"
    settings = Settings.load(
        postgres_dsn=await postgres_server.create_database(name, template=template_database),
        cosmos_endpoint=cosmos_server.endpoint,
        cosmos_key=cosmos_server.key,
        cosmos_database=name,
        postgres_pool_size=4,
    )
    mappings = Mappings(MAPPINGS)
    async with open_engine(settings) as engine, open_cosmos(settings) as store:
        await store.provision(mappings, throughput=12_000)
        await create_containers(store.client.get_database_client(name), [], [store.own.leases], None)
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="tests", why="triggers")
        deployed = deploy(tmp_path_factory.mktemp("deployed"))
        worker = await Worker.start(environment_of(settings), deployed)
        found = Installation(settings, engine, store, mappings, deployed, worker)
        assert found.worker.init == {"status": 1}
        yield found
        await found.worker.stop(kill=True)  # as Azure does
    await postgres_server.drop_database(name)
