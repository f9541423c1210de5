"""A physical partition splits while clients work: nothing is lost, and who asks for the parent is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from azure.cosmos import PartitionKey

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

    from core.local.cosmos import CosmosServer


async def test_writers_and_a_feed_reader_go_on_through_splits(server: CosmosServer, container: ContainerProxy) -> None:
    stored = server.account.container("db", "items")
    ranges = [found async for found in container.read_feed_ranges()]
    tokens: list[str | None] = [None] * len(ranges)
    seen: dict[str, int] = {}

    async def poll() -> None:
        for index, feed_range in enumerate(ranges):
            start: Any = {"continuation": tokens[index]} if tokens[index] else {"start_time": "Beginning"}
            iterator = container.query_items_change_feed(feed_range=feed_range, max_item_count=4, **start).by_page()
            async for page in iterator:
                async for document in page:
                    assert document["n"] >= seen.get(document["id"], 0)
                    seen[document["id"]] = document["n"]
            tokens[index] = container.client_connection.last_response_headers["etag"]

    n = 0
    for round_ in range(4):
        for number in range(12):
            n += 1
            await container.upsert_item({"id": str(number), "pk": f"p{number}", "n": n})
        stored.split(stored.partitions[round_ % len(stored.partitions)].id)
        await poll()
    await poll()
    assert seen == {str(number): 37 + number for number in range(12)}
    assert len(stored.partitions) == 6
    found = await asyncio.gather(*[container.read_item(str(number), f"p{number}") for number in range(12)])
    assert [document["n"] for document in found] == [37 + number for number in range(12)]


async def test_a_request_for_a_split_partition_is_gone(server: CosmosServer, container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "pk": "p"})
    stored = server.account.container("db", "items")
    children = stored.split("0")
    assert [child.parents for child in children] == [("0",), ("0",)]
    statuses: set[tuple[int, str | None]] = set()

    def watch(response: Any) -> None:
        answer = response.http_response
        statuses.add((answer.status_code, answer.headers.get("x-ms-substatus")))

    async def ask() -> list[str]:
        rows = container.query_items("SELECT * FROM c ORDER BY c.id", raw_response_hook=watch)
        return [row["id"] async for row in rows]

    assert await ask() == ["a"]
    assert (410, "1002") not in statuses
    for partition in list(stored.partitions):
        stored.split(partition.id)
    assert await ask() == ["a"]
    assert (410, "1002") in statuses


async def test_more_throughput_splits_partitions_and_keeps_documents(
    server: CosmosServer, database: DatabaseProxy
) -> None:
    container = await database.create_container("grow", PartitionKey("/pk"), offer_throughput=400)
    for number in range(40):
        await container.create_item({"id": str(number), "pk": f"p{number}"})
    await container.replace_throughput(35_000)
    ranges = [found async for found in container.read_feed_ranges(force_refresh=True)]
    assert len(ranges) == len(server.account.container("db", "grow").partitions) == 4
    assert len([row async for row in container.query_items("SELECT * FROM c")]) == 40
