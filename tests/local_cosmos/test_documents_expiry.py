"""Documents that expire, by their own and by the container's time to live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey

from tests.local_cosmos.sdk_steps import status_of

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

    from core.local.cosmos import CosmosServer


async def test_documents_expire_by_their_own_and_the_containers_time_to_live(
    server: CosmosServer, container: ContainerProxy, database: DatabaseProxy
) -> None:
    await container.create_item({"id": "short", "pk": "p", "ttl": 100})
    await container.create_item({"id": "never", "pk": "p"})
    server.account.clock.advance(50)
    await container.read_item("short", "p")
    server.account.clock.advance(60)
    assert (await status_of(container.read_item("short", "p")))[0] == 404
    assert (await status_of(container.patch_item("short", "p", [{"op": "set", "path": "/n", "value": 1}])))[0] == 404
    created = await container.upsert_item({"id": "short", "pk": "p"})
    assert created["_ts"] >= int(server.account.clock.now()) - 1
    ids: Any = container.query_items("SELECT VALUE c.id FROM c ORDER BY c.id")
    assert [found async for found in ids] == ["never", "short"]
    await database.replace_container(container, PartitionKey("/pk"), default_ttl=100)
    server.account.clock.advance(101)
    assert [d async for d in container.query_items("SELECT * FROM c")] == []


async def test_a_time_to_live_counts_from_the_last_write_and_only_where_the_container_has_one(
    server: CosmosServer, container: ContainerProxy, database: DatabaseProxy
) -> None:
    await container.create_item({"id": "a", "pk": "p", "ttl": 100})
    server.account.clock.advance(80)
    await container.patch_item("a", "p", [{"op": "set", "path": "/n", "value": 1}])
    server.account.clock.advance(80)
    await container.read_item("a", "p")
    off = await database.create_container("off", PartitionKey("/pk"))
    await off.create_item({"id": "a", "pk": "p", "ttl": 1})
    await off.create_item({"id": "b", "pk": "p"})
    server.account.clock.advance(100)
    await off.read_item("a", "p")
    await database.replace_container(off, PartitionKey("/pk"), default_ttl=-1)
    assert (await status_of(off.read_item("a", "p")))[0] == 404
    await off.read_item("b", "p")


@pytest.mark.parametrize("ttl", [0, -2, 1.5, "10", True, 2**31, None])
async def test_a_time_to_live_that_is_no_positive_integer_is_refused(container: ContainerProxy, ttl: object) -> None:
    assert (await status_of(container.create_item({"id": "a", "pk": "p", "ttl": ttl})))[0] == 400
