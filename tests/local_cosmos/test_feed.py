"""The latest-version change feed: nothing missed, nothing torn, resumable per feed range."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

    from core.local.cosmos import CosmosServer


async def pages(container: ContainerProxy, **arguments: Any) -> tuple[list[list[Any]], str]:
    """Read a feed to its end; return its pages and the token to go on with."""
    iterator = container.query_items_change_feed(**arguments).by_page()
    found = [[document async for document in page] async for page in iterator]
    # The SDK shows the token of an empty answer only here.
    return found, container.client_connection.last_response_headers["etag"]


async def test_a_feed_range_shows_each_document_once_in_the_order_of_its_last_change(container: ContainerProxy) -> None:
    for number in (1, 2, 3, 1):
        await container.upsert_item({"id": str(number), "pk": "p", "n": number})
    found, _ = await pages(container, start_time="Beginning", partition_key="p")
    documents = [document for page in found for document in page]
    assert [document["id"] for document in documents] == ["2", "3", "1"]
    assert [document["_lsn"] for document in documents] == sorted({document["_lsn"] for document in documents})


async def test_feed_ranges_divide_the_documents(container: ContainerProxy) -> None:
    for number in range(60):
        await container.create_item({"id": str(number), "pk": f"p{number}"})
    ranges = [feed_range async for feed_range in container.read_feed_ranges()]
    assert len(ranges) == 2
    seen: list[set[str]] = []
    for feed_range in ranges:
        found, _ = await pages(container, feed_range=feed_range, start_time="Beginning", max_item_count=7)
        assert max(len(page) for page in found) == 7
        seen.append({document["id"] for page in found for document in page})
    assert all(seen)
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {str(number) for number in range(60)}


async def test_a_continuation_goes_on_where_the_reader_stopped(container: ContainerProxy) -> None:
    feed_range = await anext(aiter(container.read_feed_ranges()))
    _, token = await pages(container, feed_range=feed_range, start_time="Beginning")
    for number in range(20):
        await container.create_item({"id": str(number), "pk": f"p{number}"})
    first, token = await pages(container, feed_range=feed_range, continuation=token)
    assert first
    again, token = await pages(container, feed_range=feed_range, continuation=token)
    assert again == []
    changed = first[0][0]
    await container.upsert_item({"id": changed["id"], "pk": changed["pk"], "new": True})
    last, _ = await pages(container, feed_range=feed_range, continuation=token)
    assert [(document["id"], document["new"]) for page in last for document in page] == [(changed["id"], True)]


async def test_a_feed_from_now_shows_only_what_comes_later(container: ContainerProxy) -> None:
    await container.create_item({"id": "before", "pk": "p"})
    found, token = await pages(container, start_time="Now", partition_key="p")
    assert found == []
    await container.create_item({"id": "after", "pk": "p"})
    found, _ = await pages(container, continuation=token)
    assert [document["id"] for page in found for document in page] == ["after"]


async def test_a_feed_from_a_time_shows_what_changed_since(server: CosmosServer, container: ContainerProxy) -> None:
    await container.create_item({"id": "early", "pk": "p"})
    server.account.clock.advance(100)
    since = datetime.fromtimestamp(server.account.clock.now() - 10, UTC)
    await container.create_item({"id": "late", "pk": "p"})
    found, _ = await pages(container, start_time=since)
    assert [document["id"] for page in found for document in page] == ["late"]


async def test_a_start_time_counts_whole_seconds_and_its_own_second(
    server: CosmosServer, container: ContainerProxy
) -> None:
    for _ in range(3):
        await container.upsert_item({"id": str(int(server.account.clock.now())), "pk": "p"})
        server.account.clock.advance(1)
    stamps = [int(document["id"]) async for document in container.query_items("SELECT c.id FROM c ORDER BY c.id")]
    since = datetime.fromtimestamp(stamps[1], UTC)
    found, token = await pages(container, start_time=since, partition_key="p")
    assert [int(document["id"]) for page in found for document in page] == stamps[1:]
    found, _ = await pages(container, start_time=since + timedelta(seconds=1), partition_key="p")
    assert [int(document["id"]) for page in found for document in page] == stamps[2:]
    assert token


async def test_a_feed_of_a_container_that_was_created_again_starts_anew(
    container: ContainerProxy, database: DatabaseProxy
) -> None:
    await container.create_item({"id": "old", "pk": "p"})
    _, token = await pages(container, start_time="Beginning", partition_key="p")
    await database.delete_container(container)
    again = await database.create_container("items", PartitionKey("/pk"), offer_throughput=30_000)
    # The client keeps the ranges of the container that is gone until it is told to look.
    assert len([feed_range async for feed_range in again.read_feed_ranges(force_refresh=True)]) == 5
    await again.create_item({"id": "new", "pk": "p"})
    with pytest.raises(ValueError, match="rid"):
        await pages(again, continuation=token)
    found, _ = await pages(again, start_time="Beginning")
    assert [document["id"] for page in found for document in page] == ["new"]


async def test_a_client_that_knows_the_ranges_of_an_older_container_is_sent_to_the_new_ones(
    container: ContainerProxy, database: DatabaseProxy
) -> None:
    assert len([feed_range async for feed_range in container.read_feed_ranges()]) == 2
    await database.delete_container(container)
    again = await database.create_container("items", PartitionKey("/pk"), offer_throughput=30_000)
    for number in range(10):
        await again.create_item({"id": str(number), "pk": f"p{number}"})
        found, _ = await pages(again, start_time="Beginning", partition_key=f"p{number}")
        assert [document["id"] for page in found for document in page] == [str(number)]


async def test_ranges_of_an_older_container_are_not_taken_for_those_of_the_new_one(
    container: ContainerProxy, database: DatabaseProxy
) -> None:
    etags: list[str] = []

    async def ranges(**headers: str) -> int:
        """Read the ranges as the SDK's cache does, and return how many were sent."""
        hooks: Any = {
            "raw_request_hook": lambda request: request.http_request.headers.update(headers),
            "raw_response_hook": lambda response: etags.append(response.http_response.headers["etag"]),
        }
        connection = container.client_connection
        return len([found async for found in connection._ReadPartitionKeyRanges(container.container_link, **hooks)])

    assert await ranges() == 2
    assert await ranges(**{"If-None-Match": etags[0]}) == 0
    await database.delete_container(container)
    await database.create_container("items", PartitionKey("/pk"), offer_throughput=12_000)
    assert await ranges(**{"If-None-Match": etags[0]}) == 2


@pytest.mark.parametrize("token", ['"x"', "", '"-1"', '"1.5"'])
async def test_a_position_that_no_feed_gave_out_is_refused(container: ContainerProxy, token: str) -> None:
    feed = container.query_items_change_feed(
        start_time="Beginning",
        partition_key="p",
        raw_request_hook=lambda request: request.http_request.headers.update({"If-None-Match": token}),
    )
    with pytest.raises(CosmosHttpResponseError) as caught:
        await anext(aiter(feed))
    assert caught.value.status_code == 400


async def test_page_sizes_are_honoured_down_to_one_and_up_to_no_limit(container: ContainerProxy) -> None:
    for number in range(110):
        await container.create_item({"id": str(number), "pk": "p"})
    sizes = {}
    for limit in (100, None, -1):
        found, _ = await pages(container, start_time="Beginning", partition_key="p", max_item_count=limit)
        sizes[limit] = [len(page) for page in found]
    assert sizes == {100: [100, 10], None: [100, 10], -1: [110]}
    single = container.query_items_change_feed(start_time="Beginning", max_item_count=1).by_page()
    assert [len([document async for document in await anext(single)]) for _ in range(3)] == [1, 1, 1]


async def test_a_feed_of_one_partition_key_shows_no_other(container: ContainerProxy) -> None:
    for number in range(30):
        await container.create_item({"id": str(number), "pk": f"p{number % 10}"})
    found, _ = await pages(container, start_time="Beginning", partition_key="p3", max_item_count=2)
    assert [document["id"] for page in found for document in page] == ["3", "13", "23"]


async def test_a_feed_of_half_a_physical_partition_shows_only_its_half(container: ContainerProxy) -> None:
    for number in range(60):
        await container.create_item({"id": str(number), "pk": f"p{number}"})
    first = await anext(aiter(container.read_feed_ranges()))
    halves = []
    for low, high in (("", "1" + "0" * 31), ("1" + "0" * 31, "2" + "0" * 31)):
        part: Any = {"Range": {"min": low, "max": high, "isMinInclusive": True, "isMaxInclusive": False}}
        found, _ = await pages(container, start_time="Beginning", feed_range=part)
        halves.append({document["id"] for page in found for document in page})
    whole, _ = await pages(container, start_time="Beginning", feed_range=first)
    assert all(halves)
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == {document["id"] for page in whole for document in page}


async def test_a_batch_is_one_change_and_never_split_over_pages(container: ContainerProxy) -> None:
    for batch in range(4):
        operations = [("upsert", ({"id": f"{batch}-{n}", "pk": "p"},)) for n in range(5)]
        await container.execute_item_batch(operations, "p")
    found, _ = await pages(container, start_time="Beginning", partition_key="p", max_item_count=3)
    assert [len(page) for page in found] == [5, 5, 5, 5]
    assert all(len({document["_lsn"] for document in page}) == 1 for page in found)


async def test_deleted_and_expired_documents_leave_the_feed(server: CosmosServer, container: ContainerProxy) -> None:
    for id_ in ("deleted", "expired", "kept"):
        await container.create_item({"id": id_, "pk": "p", **({"ttl": 5} if id_ == "expired" else {})})
    await container.delete_item("deleted", "p")
    server.account.clock.advance(10)
    found, _ = await pages(container, start_time="Beginning", partition_key="p")
    assert [document["id"] for page in found for document in page] == ["kept"]


async def test_readers_and_writers_at_once_lose_nothing(container: ContainerProxy) -> None:
    async def write() -> None:
        for number in range(60):
            await container.upsert_item({"id": str(number % 20), "pk": f"p{number % 20}", "n": number})

    async def read(feed_range: Any) -> dict[str, int]:
        latest: dict[str, int] = {}
        token: str | None = None
        idle = 0
        while not (writing.done() and idle):
            start: Any = {"continuation": token} if token else {"start_time": "Beginning"}
            feed = container.query_items_change_feed(feed_range=feed_range, max_item_count=5, **start)
            iterator: Any = feed.by_page()
            found = [[document async for document in page] async for page in iterator]
            token = iterator.continuation_token or token
            idle = 0 if found else idle + 1
            latest.update({document["id"]: document["n"] for page in found for document in page})
        return latest

    ranges = [feed_range async for feed_range in container.read_feed_ranges()]
    writing = asyncio.create_task(write())
    views = await asyncio.gather(*[read(feed_range) for feed_range in ranges])
    assert {id_: n for view in views for id_, n in view.items()} == {str(n): n + 40 for n in range(20)}


async def test_memory_follows_the_documents_and_not_the_writes(server: CosmosServer, container: ContainerProxy) -> None:
    for round_ in range(60):
        operations = [("upsert", ({"id": str(n), "pk": "p", "round": round_},)) for n in range(100)]
        await container.execute_item_batch(operations, "p")
    stored = server.account.container("db", "items")
    assert sum(len(partition.log) + len(partition.history) for partition in stored.partitions) < 2_000
