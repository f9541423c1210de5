"""The barrier: a position read after the drain, in every feed range and every slot, and nothing kept back."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from core.domain.mappings import ACCOUNTS
from core.migration.barrier import documents_arrived, messages_arrived
from core.postgres.switching import begin_switch
from outbox.barrier import SlotBarrier
from tests.integration.migration_steps import COSMOS, POSTGRES, Town, quick_town
from tests.integration.relay_steps import make_primary, run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings

_PARK = """
    INSERT INTO crossfeed.mirror_parked (entity, partition_key, id, etag, ts, lsn, reason, retry_at)
    VALUES ('Account', 'a', 'a', 'e', 1, 1, 'a test', 'infinity')
"""


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share: its ranges are split here."""
    return own_cosmos_server


@pytest.fixture
async def town(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Town:
    """An installation whose primary is Cosmos DB."""
    await make_primary(engine, COSMOS)
    return quick_town(settings, engine, cosmos, mappings)


async def barrier(town: Town, said: list[str] | None = None) -> dict[str, int]:
    async with asyncio.timeout(30):
        said = said if said is not None else []
        return await documents_arrived(town.engine, town.store, town.mappings, 2, said.append)


async def marks(town: Town) -> list[str]:
    """Return the barrier's watermarks in the container of accounts."""
    query = "SELECT VALUE c.id FROM c WHERE c.crossfeed.kind = 'barrier'"
    return [str(item) async for item in town.store.container(ACCOUNTS).query_items(query)]


async def test_whatever_was_written_before_has_arrived_when_the_watermarks_have(town: Town) -> None:
    ids = {f"a{number}" for number in range(40)}
    async with town.mirroring():
        for id_ in ids:
            await town.store.container(ACCOUNTS).create_item({"id": id_})
        found = await barrier(town)
        assert await town.accounts() == ids
    assert set(found) == set(town.mappings.containers)
    newest = [item["_ts"] async for item in town.store.container(ACCOUNTS).query_items("SELECT c._ts FROM c")]
    assert found["Accounts"] <= max(newest)


async def test_a_range_that_is_split_meanwhile_is_asked_again_in_all_its_parts(
    town: Town, own_cosmos_server: CosmosServer
) -> None:
    waiting = asyncio.create_task(barrier(town))
    await until(lambda: has_marks(town, 1))
    container = own_cosmos_server.account.container(town.store.database, "Accounts")
    container.split(container.partitions[0].id)
    async with town.mirroring():
        await waiting
    assert len(await marks(town)) == 1 + 2


async def has_marks(town: Town, count: int) -> bool:
    return len(await marks(town)) == count


async def test_a_parked_document_and_a_mirror_that_stands_still_are_waited_for_by_name(town: Town) -> None:
    said: list[str] = []
    await run(town.engine, _PARK)
    waiting = asyncio.create_task(barrier(town, said))
    await until(lambda: any("feed ranges of 'Accounts'" in what for what in said))
    async with town.mirroring():
        await until(lambda: any("1 documents that another one's state keeps out" in what for what in said))
        assert not waiting.done()
        await run(town.engine, "DELETE FROM crossfeed.mirror_parked")
        await waiting


async def test_a_watermark_counts_by_its_etag(town: Town) -> None:
    """A copy that somebody made of it, or an older one of the same name, proves nothing."""
    waiting = asyncio.create_task(barrier(town))
    for name in town.mappings.containers:
        await until(partial(shows, town, name, etag="another"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    for name in town.mappings.containers:
        assert await shows(town, name)
    await waiting


async def shows(town: Town, container: str, etag: str | None = None) -> bool:
    """Record the barrier's watermarks of a container, as the mirror does, with this etag; whether there are any."""
    query = "SELECT c.id, c._etag FROM c WHERE c.crossfeed.kind = 'barrier'"
    found = [item async for item in town.store.container_named(container).query_items(query)]
    for mark in found:
        seen = f"('{container}', '{mark['id']}', '{etag or mark['_etag']}')"
        await run(town.engine, f"INSERT INTO crossfeed.watermark_seen VALUES {seen} ON CONFLICT DO NOTHING")
    return bool(found)


async def test_every_slot_has_to_be_past_a_snapshot_that_was_taken_after_the_drain(town: Town) -> None:
    await make_primary(town.engine, POSTGRES)
    ids = {f"a{number}" for number in range(40)}
    for id_ in ids:
        await run(town.engine, f"INSERT INTO accounts (id) VALUES ('{id_}')")
    log = SlotBarrier()
    await begin_switch(town.engine, COSMOS, who="test", why="test")
    async with town.engine.connect() as connection:
        snapshot = await log.snapshot(connection)
        behind = await log.behind(connection, snapshot)
        assert set(behind.slots) == set(range(32))
        assert await log.unsent(connection)
    async with town.relaying():
        await messages_arrived(town.engine, log, lambda _: None)
        assert await town.documents() == ids
        async with town.engine.connect() as connection:
            assert not await log.behind(connection, snapshot)
            assert not await log.unsent(connection)


async def test_a_cursor_that_shows_less_than_the_snapshot_is_behind_it(town: Town) -> None:
    log, own = SlotBarrier(), "UPDATE crossfeed.slot SET seen = '{}'"
    snapshot = "100:110:102,105"
    for seen, is_behind in (
        ("100:110:102,105", False),
        ("111:111:", False),
        ("102:200:102,105", False),
        ("100:109:102,105", True),
        ("100:110:102,103,105", True),
        ("103:200:103", True),
        ("105:200:105,150", False),
    ):
        await run(town.engine, own.format(seen))
        async with town.engine.connect() as connection:
            assert bool(await log.behind(connection, snapshot)) is is_behind, seen
