"""The change feed of all versions and deletes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos import CosmosServer


async def changes(container: ContainerProxy, **arguments: Any) -> tuple[list[Any], str]:
    iterator = container.query_items_change_feed(mode="AllVersionsAndDeletes", **arguments).by_page()
    found = [change async for page in iterator async for change in page]
    return found, container.client_connection.last_response_headers["etag"]


async def test_every_version_and_the_delete_are_shown_in_order(server: CosmosServer, container: ContainerProxy) -> None:
    await container.create_item({"id": "before", "pk": "p"})
    found, token = await changes(container, partition_key="p")
    assert found == []
    await container.create_item({"id": "a", "pk": "p", "v": 1})
    await container.upsert_item({"id": "a", "pk": "p", "v": 2})
    await container.upsert_item({"id": "ttl", "pk": "p", "ttl": 5})
    await container.delete_item("a", "p")
    server.account.clock.advance(10)
    found, _ = await changes(container, continuation=token)
    kinds = [(change["metadata"]["operationType"], change["current"].get("v")) for change in found]
    assert kinds == [("create", 1), ("replace", 2), ("create", None), ("delete", None), ("delete", None)]
    assert [change["previous"]["id"] for change in found[3:]] == ["a", "ttl"]
    assert [change["metadata"].get("timeToLiveExpired") for change in found[3:]] == [None, True]
    # Documented for deletes alone: which document it was, also where the previous version is not there any more.
    named = [(change["metadata"].get("id"), change["metadata"].get("partitionKey")) for change in found]
    assert named == [(None, None)] * 3 + [("a", {"pk": "p"}), ("ttl", {"pk": "p"})]
    lsns = [change["metadata"]["lsn"] for change in found]
    assert lsns == sorted(set(lsns))


async def test_a_continuation_survives_a_split(server: CosmosServer, container: ContainerProxy) -> None:
    _, token = await changes(container, partition_key="p")
    await container.create_item({"id": "a", "pk": "p"})
    stored = server.account.container("db", "items")
    for partition in list(stored.partitions):
        stored.split(partition.id)
    await container.delete_item("a", "p")
    found, _ = await changes(container, continuation=token)
    assert [change["metadata"]["operationType"] for change in found] == ["create", "delete"]


async def test_a_beginning_cannot_be_asked_for(container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "pk": "p"})
    with pytest.raises(ValueError, match="'start_time' is 'Now'"):
        await changes(container, start_time="Beginning", partition_key="p")
    await changes(container, partition_key="p")
    for headers in ({"If-None-Match": '"0"'}, {"If-None-Match": '"1"'}):
        with pytest.raises(CosmosHttpResponseError, match="starts now") as caught:
            await changes(
                container,
                partition_key="p",
                raw_request_hook=lambda request, sent=headers: request.http_request.headers.update(sent),
            )
        assert caught.value.status_code == 400


async def test_a_batch_is_one_change_with_every_version_in_it(container: ContainerProxy) -> None:
    _, token = await changes(container, partition_key="p")
    operations: Any = [
        ("create", ({"id": "a", "pk": "p", "v": 1},)),
        ("upsert", ({"id": "a", "pk": "p", "v": 2},)),
        ("create", ({"id": "b", "pk": "p"},)),
        ("delete", ("b",)),
    ]
    await container.execute_item_batch(operations, "p")
    found, _ = await changes(container, continuation=token, max_item_count=1)
    kinds = [(change["metadata"]["operationType"], change["current"].get("id")) for change in found]
    assert kinds == [("create", "a"), ("replace", "a"), ("create", "b"), ("delete", None)]
    assert len({change["metadata"]["lsn"] for change in found}) == 1
    latest = container.query_items_change_feed(start_time="Beginning", partition_key="p")
    assert [(document["id"], document["v"]) async for document in latest] == [("a", 2)]
