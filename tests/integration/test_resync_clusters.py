"""G2 with real clusters: restores, roll-backs and promotions are told from each other, and a re-sync heals them."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import migrations
from core.cosmos.documents import CosmosDocuments
from core.domain.account import Account
from core.domain.mappings import MAPPINGS
from core.domain.tables import metadata
from core.errors import HistoryLostError
from core.identity import Identity
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.postgres import capture
from core.postgres.engine import open_engine
from core.settings import Settings
from outbox.lineage import Lineage
from outbox.relay import Relay, open_relay
from outbox.resync import Resync
from tests.integration.clusters import backup_of, dump_into, forget_the_primary, promote, until_replayed
from tests.integration.lineage_steps import check
from tests.integration.relay_steps import differences, letters, make_primary, run, until
from tests.stores import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore

WRITE = "INSERT INTO accounts (id, display_name) VALUES ('{}', 'x')"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedPostgres]:
    """A cluster of this module's own, with a template of an installation."""
    with EmbeddedPostgres(settings={"wal_keep_size": "64MB"}) as server:
        asyncio.run(_build(server))
        yield server


async def _build(server: EmbeddedPostgres) -> None:
    dsn = await server.create_database("template_crossfeed")
    async with open_engine(Settings.load(postgres_dsn=dsn)) as engine, engine.begin() as connection:
        await connection.run_sync(migrations.upgrade)
        await connection.run_sync(metadata.create_all)
        for mapping in Mappings(MAPPINGS):
            await connection.run_sync(capture.install, mapping)


class Place:
    """One database, wherever it is, and what a relay does there."""

    def __init__(self, settings: Settings, cosmos: CosmosStore, engine: AsyncEngine) -> None:
        self.engine = engine
        self.lineage = Lineage(cosmos, settings)
        self._settings = settings
        self._cosmos = cosmos
        self._mappings = Mappings(MAPPINGS)

    async def check(self) -> None:
        await check(self.engine, self.lineage)

    def open_relay(self) -> Relay:
        return open_relay(self._settings, self._mappings, self.engine, self._cosmos)

    async def relay(self) -> None:
        """Send what is committed, and mark it."""
        await self.open_relay().drain()

    async def heal(self, *ids: str) -> None:
        """Re-sync, and see that both stores hold the same of these documents."""
        settings = self._settings.model_copy(update={"relay_lease_s": 0.2})
        await Resync(self.engine, self._cosmos, self._mappings, settings).run(who="test", why="test")
        await self.relay()
        identities = [Identity.of("Account", [id_], id_) for id_ in ids]
        assert await differences(self.engine, self._cosmos, self._mappings.of(Account), identities) == []


@asynccontextmanager
async def at(dsn: str, settings: Settings, cosmos: CosmosStore) -> AsyncIterator[Place]:
    settings = settings.model_copy(update={"postgres_dsn": Settings.load(postgres_dsn=dsn).postgres_dsn})
    async with open_engine(settings) as engine:
        yield Place(settings, cosmos, engine)


@pytest.fixture
def name() -> str:
    return f"test_{uuid.uuid4().hex}"


@pytest.fixture
async def primary(
    cluster: EmbeddedPostgres, settings: Settings, cosmos: CosmosStore, name: str
) -> AsyncIterator[Place]:
    dsn = await cluster.create_database(name, template="template_crossfeed")
    async with at(dsn, settings, cosmos) as place:
        await make_primary(place.engine)
        await run(place.engine, WRITE.format("old"))
        await place.relay()
        yield place


async def test_a_dump_that_is_restored_in_another_cluster_is_noticed_and_healed(
    cluster: EmbeddedPostgres, settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, name: str
) -> None:
    here = Place(settings, cosmos, engine)
    await make_primary(engine)
    await run(engine, WRITE.format("old"))
    await here.relay()
    dsn = await dump_into(settings.require_postgres(), cluster, name, [WRITE.format("lost")])
    await here.relay()
    async with at(dsn, settings, cosmos) as restored:
        with pytest.raises(HistoryLostError, match=r"this is cluster .*, what was sent came from cluster"):
            await restored.check()
        await restored.heal("old", "lost")
        assert [letter[2] for letter in await letters(restored.engine)] == ["lost"]
        await run(restored.engine, WRITE.format("new"))
        await restored.relay()


async def test_a_cluster_that_is_rolled_back_to_an_older_base_backup_is_noticed_and_healed(
    cluster: EmbeddedPostgres, settings: Settings, cosmos: CosmosStore, primary: Place, name: str
) -> None:
    async with AsyncExitStack() as stack:
        backup = await stack.enter_async_context(backup_of(cluster))
        await run(primary.engine, WRITE.format("lost"))
        await primary.relay()
        await stack.enter_async_context(backup)
        restored = await stack.enter_async_context(at(backup.dsn_of(name), settings, cosmos))
        await run(restored.engine, WRITE.format("new"))  # takes the number, and the transaction, of what was lost
        with pytest.raises(HistoryLostError, match="were sent and are not in it any more"):
            await restored.check()
        await restored.heal("old", "lost", "new")


async def test_a_promoted_standby_that_lost_commits_is_noticed_and_healed(
    cluster: EmbeddedPostgres, settings: Settings, cosmos: CosmosStore, primary: Place, name: str
) -> None:
    async with AsyncExitStack() as stack:
        standby = await stack.enter_async_context(backup_of(cluster, follows=True))
        async with standby:
            await until_replayed(cluster, standby)
        await run(primary.engine, WRITE.format("lost"))
        await primary.relay()
        forget_the_primary(standby)
        await stack.enter_async_context(standby)
        await promote(standby)
        promoted = await stack.enter_async_context(at(standby.dsn_of(name), settings, cosmos))
        with pytest.raises(HistoryLostError, match="were sent and are not in it any more"):
            await promoted.check()
        await promoted.heal("old", "lost")


async def test_a_promoted_standby_that_lost_nothing_goes_on_and_the_former_primary_stops(
    cluster: EmbeddedPostgres, settings: Settings, cosmos: CosmosStore, primary: Place, name: str
) -> None:
    async with AsyncExitStack() as stack:
        standby = await stack.enter_async_context(backup_of(cluster, follows=True))
        await stack.enter_async_context(standby)
        await run(primary.engine, WRITE.format("new"))
        await primary.relay()
        await until_replayed(cluster, standby)
        await promote(standby)
        promoted = await stack.enter_async_context(at(standby.dsn_of(name), settings, cosmos))
        await promoted.relay()
        with pytest.raises(HistoryLostError, match="this is timeline 1, another server went on with timeline 2"):
            await primary.check()


@pytest.mark.chaos
async def test_a_running_relay_notices_a_failover_that_lost_what_it_has_just_sent(
    settings: Settings, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are of the last milliseconds, and cursors, with them markers, are stored later: the relay itself knows."""
    monkeypatch.setattr("outbox.place.FLUSH_S", 3600.0)
    port = free_port()
    async with AsyncExitStack() as stack:
        former = EmbeddedPostgres()
        await former.__aenter__()
        try:
            await _build(former)
            standby = await stack.enter_async_context(backup_of(former, follows=True, port=port))
            one, other = urlsplit(former.dsn_of("template_crossfeed")), f"127.0.0.1:{port}"
            dsn = one._replace(netloc=f"{one.netloc},{other}", query="target_session_attrs=read-write").geturl()
            place = await stack.enter_async_context(at(dsn, settings, cosmos))
            await make_primary(place.engine)
            async with standby:
                await until_replayed(former, standby)
            forget_the_primary(standby)
            relaying = asyncio.ensure_future(place.open_relay().run(asyncio.Event()))
            await run(place.engine, WRITE.format("lost"))
            account = Identity.of("Account", ["lost"], "lost")
            await until(lambda: _is_there(cosmos, account))
        finally:
            await former.__aexit__(None, None, None)
        await stack.enter_async_context(standby)
        await promote(standby)
        with pytest.raises(HistoryLostError, match="were sent and are not in it any more"):
            await asyncio.wait_for(relaying, 60)


async def _is_there(cosmos: CosmosStore, identity: Identity) -> bool:
    return await CosmosDocuments(cosmos, Mappings(MAPPINGS)).read(identity) is not None
