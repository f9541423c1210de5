"""A physical partition splits or merges while clients work: nothing is lost, and who asks for what was, is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey

from core.local.cosmos import CosmosServer
from core.local.cosmos.errors import CosmosError
from core.local.cosmos.state.merging import merge

if TYPE_CHECKING:
    from pathlib import Path

    from azure.cosmos.aio import ContainerProxy, DatabaseProxy


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


async def test_writers_readers_and_positions_go_on_through_a_merge(
    server: CosmosServer, container: ContainerProxy
) -> None:
    for number in range(40):
        await container.create_item({"id": str(number), "pk": f"p{number}"})
    ranges = [found async for found in container.read_feed_ranges()]
    before, tokens = [], []
    for feed_range in ranges:
        feed = container.query_items_change_feed(feed_range=feed_range, start_time="Beginning")
        before.append({document["id"] async for document in feed})
        tokens.append(container.client_connection.last_response_headers["etag"])
    stored = server.account.container("db", "items")
    for partition in stored.partitions:  # one is far ahead of the other
        if partition.id == "0":
            partition.lsn += 1000
    merged = merge(stored, "0")
    assert (merged.parents, [partition.id for partition in stored.partitions]) == (("0", "1"), ["2"])

    changed = [{"id": str(number), "pk": f"p{number}", "new": True} for number in (3, 5, 7, 11)]
    for body in changed:
        await container.upsert_item(body)
    for feed_range, token, known in zip(ranges, tokens, before, strict=True):
        feed = container.query_items_change_feed(feed_range=feed_range, continuation=token)
        seen = [document async for document in feed]
        assert {document["id"] for document in seen} == known & {body["id"] for body in changed}
        whole = container.query_items_change_feed(feed_range=feed_range, start_time="Beginning", max_item_count=3)
        assert {document["id"] async for document in whole} == known
    everything = [d async for d in container.query_items_change_feed(start_time="Beginning", max_item_count=3)]
    assert len(everything) == 40
    assert [d["_lsn"] for d in everything] == sorted(d["_lsn"] for d in everything)
    assert len([row async for row in container.query_items("SELECT * FROM c ORDER BY c.id")]) == 40
    assert (await container.read_item("3", "p3"))["new"]
    with pytest.raises(CosmosError) as caught:
        merge(stored, "2")
    assert caught.value.status == 400


async def test_a_merge_is_kept_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "account.db"
    async with CosmosServer(file=file) as server:
        server.account.create_database({"id": "db"}, None, None)
        definition = {"id": "c", "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}}
        merge(server.account.create_container("db", definition, 18_000, None), "1")
    async with CosmosServer(file=file) as server:
        partitions = server.account.container("db", "c").partitions
        assert [(partition.id, partition.parents) for partition in partitions] == [("0", ()), ("3", ("1", "2"))]


async def test_a_split_within_one_tenant_of_a_hierarchical_key_hides_none_of_it(
    server: CosmosServer, database: DatabaseProxy
) -> None:
    container = await database.create_container("tree", PartitionKey(["/tenant", "/user", "/id"]))
    rows = [(tenant, user, str(n)) for tenant in ("a", "b") for user in ("x", "y", None) for n in range(2)]
    for tenant, user, id_ in rows:
        await container.create_item({"id": id_, "tenant": tenant, "user": user})
    stored = server.account.container("db", "tree")
    inside = stored.key_definition.epk(("a", "y"))
    assert [child.minimum for child in stored.split("0", inside)] == ["", inside]

    for prefix, count in ((["a"], 6), (["a", "y"], 2), (["a", None], 2), (["b"], 6)):
        found: Any = container.query_items("SELECT * FROM c", partition_key=prefix)
        assert len([document async for document in found]) == count, prefix
        if prefix == ["a"]:
            continue  # the SDK forgets a feed's range where it spans partitions, and reads the whole of them
        feed = container.query_items_change_feed(partition_key=prefix, start_time="Beginning")
        assert len([document async for document in feed]) == count, prefix
    assert (await container.read_item("1", ["a", "y", "1"]))["user"] == "y"


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
