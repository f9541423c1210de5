"""Queries read page by page: every row once, across partitions, splits and writes in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

    from core.local.cosmos import CosmosServer


COMPOSITE = [{"path": "/kind", "order": "descending"}, {"path": "/n", "order": "ascending"}]


async def test_an_ordered_page_is_resumed_by_its_keys_whatever_was_written_since(database: DatabaseProxy) -> None:
    policy: Any = {"includedPaths": [{"path": "/*"}], "compositeIndexes": [COMPOSITE]}
    container = await database.create_container("sorted", PartitionKey("/pk"), indexing_policy=policy)
    for number in range(8):
        await container.create_item({"id": str(number), "pk": "p", "kind": number % 2, "n": number})
    text = "SELECT VALUE c.id FROM c ORDER BY c.kind DESC, c.n OFFSET 1 LIMIT 6"
    first: Any = container.query_items(text, partition_key="p", max_item_count=3).by_page()
    assert [row async for row in await anext(first)] == ["3", "5", "7"]
    await container.delete_item("1", "p")
    await container.create_item({"id": "new", "pk": "p", "kind": 1, "n": -1})
    rest: Any = container.query_items(text, partition_key="p").by_page(first.continuation_token)
    assert [row async for page in rest async for row in page] == ["0", "2", "4"]


async def test_a_scan_goes_on_over_a_split_without_loss_or_repetition(
    server: CosmosServer, container: ContainerProxy
) -> None:
    for number in range(60):
        await container.create_item({"id": str(number), "pk": f"p{number}"})
    stored = server.account.container("db", "items")
    found: list[str] = []
    token: str | None = None
    while True:
        pages: Any = container.query_items("SELECT VALUE c.id FROM c", max_item_count=4).by_page(token)
        found.extend([row async for row in await anext(pages)])
        token = pages.continuation_token
        if token is None:
            break
        if len(stored.partitions) < 16:
            for partition in list(stored.partitions):
                stored.split(partition.id)
    assert sorted(found, key=int) == [str(number) for number in range(60)]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM c",
        "SELECT * FROM c ORDER BY c.id",
        "SELECT DISTINCT c.id FROM c",
        "SELECT * FROM c WHERE c.n > 0",
    ],
)
async def test_pages_together_hold_every_row_once(container: ContainerProxy, text: str) -> None:
    for number in range(1, 32):
        await container.create_item({"id": f"{number:02}", "pk": f"p{number}", "n": number})
    iterator = container.query_items(text, max_item_count=4).by_page()
    found = [[row["id"] async for row in page] async for page in iterator]
    assert max(len(page) for page in found) <= 4
    assert sorted(id_ for page in found for id_ in page) == [f"{number:02}" for number in range(1, 32)]


async def test_a_page_is_resumed_from_its_token(container: ContainerProxy) -> None:
    for number in range(10):
        await container.create_item({"id": str(number), "pk": "p"})
    first: Any = container.query_items("SELECT VALUE c.id FROM c", partition_key="p", max_item_count=3).by_page()
    page = [row async for row in await anext(first)]
    await container.delete_item(page[-1], "p")
    await container.create_item({"id": "new", "pk": "p"})
    rest: Any = container.query_items("SELECT VALUE c.id FROM c", partition_key="p").by_page(first.continuation_token)
    assert [row async for page in rest async for row in page] == [*[str(n) for n in range(3, 10)], "new"]
