"""The change feed as the mirror reads it: every change once per position, positions that can be saved and resumed."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.feed import FeedPage, FeedRange, feed_ranges, pages
from core.cosmos.watermarks import write_watermarks
from core.envelope import Internal, author_of
from core.local.cosmos.faults import Operation, Refuse
from core.mapping import RESERVED_ID_PREFIX
from tests.cosmos.example import LINES, MAPPINGS, NOTES, note, settings_for
from tests.cosmos.steps import once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos.faults import Faults
    from core.local.cosmos.server import CosmosServer


@pytest.fixture
async def wide(server: CosmosServer) -> AsyncIterator[CosmosStore]:
    """A database whose containers have five physical partitions."""
    async with open_cosmos(settings_for(server)) as store:
        await store.provision(MAPPINGS, throughput=30_000)
        yield store


async def drain(
    container: ContainerProxy, feed_range: FeedRange, continuation: str | None = None, size: int = 100
) -> tuple[list[dict[str, Any]], str, list[FeedPage]]:
    found = [page async for page in pages(container, feed_range, continuation, size)]
    return [document for page in found for document in page.documents], found[-1].continuation, found


async def put(container: ContainerProxy, *ids: str, **content: Any) -> None:
    for id_ in ids:
        await container.upsert_item(note(id_, **content))


async def test_the_beginning_and_then_only_what_is_new(store: CosmosStore) -> None:
    container = store.container(NOTES)
    [feed_range] = await feed_ranges(container)
    assert feed_range.key == "-FF"
    await put(container, "n1", "n2")
    documents, position, _ = await drain(container, feed_range)
    assert [document["id"] for document in documents] == ["n1", "n2"]
    assert all({"_ts", "_lsn", "_etag"} <= document.keys() for document in documents)
    again, position, _ = await drain(container, feed_range, position)
    assert again == []
    await put(container, "n2", "n3")
    documents, position, _ = await drain(container, feed_range, position)
    assert [document["id"] for document in documents] == ["n2", "n3"]


async def test_an_empty_range_has_a_position_that_misses_nothing(store: CosmosStore) -> None:
    container = store.container(NOTES)
    [feed_range] = await feed_ranges(container)
    documents, position, found = await drain(container, feed_range)
    assert documents == []
    assert found == [FeedPage((), position)]
    await put(container, "n1")
    documents, *_ = await drain(container, feed_range, position)
    assert [document["id"] for document in documents] == ["n1"]


async def test_every_page_can_be_resumed_from(store: CosmosStore) -> None:
    container = store.container(NOTES)
    [feed_range] = await feed_ranges(container)
    ids = [f"n{n:02}" for n in range(25)]
    await put(container, *ids)
    documents, _, found = await drain(container, feed_range, size=4)
    assert [document["id"] for document in documents] == ids
    assert len(found) > 6
    for index, page in enumerate(found):
        rest, *_ = await drain(container, feed_range, page.continuation)
        assert rest == [document for later in found[index + 1 :] for document in later.documents]


async def test_a_position_is_of_its_own_range_whatever_else_the_client_does_meanwhile(wide: CosmosStore) -> None:
    container = wide.container(NOTES)
    ranges = await feed_ranges(container)
    ids = {uuid.uuid4().hex for _ in range(60)}
    await put(container, *ids)
    busy = True

    async def noise() -> None:
        while busy:
            await wide.container(LINES).upsert_item({"id": "noise", "accountId": "a", "Code": "c"})

    noises = [asyncio.create_task(noise()) for _ in range(4)]
    results = await asyncio.gather(*(drain(container, feed_range, size=3) for feed_range in ranges))
    await put(container, *ids, Title="second")
    again = await asyncio.gather(
        *(drain(container, feed_range, result[1]) for feed_range, result in zip(ranges, results, strict=True))
    )
    busy = False
    await asyncio.gather(*noises)
    for first, second in zip(results, again, strict=True):
        assert {document["id"] for document in first[0]} == {document["id"] for document in second[0]}
        assert {document["Title"] for document in second[0]} <= {"second"}
        for page in (*first[2], *second[2]):
            token = json.loads(base64.b64decode(page.continuation))
            assert token["startFrom"] == {"Type": "Beginning"}
    assert {document["id"] for result in results for document in result[0]} == ids


async def test_ranges_have_stable_distinct_keys_and_share_out_the_documents(wide: CosmosStore) -> None:
    container = wide.container(NOTES)
    ranges = await feed_ranges(container)
    assert len({feed_range.key for feed_range in ranges}) == 5
    assert ranges == await feed_ranges(container)
    ids = [f"n{n}" for n in range(40)]
    await put(container, *ids)
    parts = [{document["id"] for document in (await drain(container, each))[0]} for each in ranges]
    assert sorted(id_ for part in parts for id_ in part) == sorted(ids)
    assert sum(map(bool, parts)) > 1


async def test_a_batch_is_never_split_between_pages(store: CosmosStore) -> None:
    container = store.container(LINES)
    [feed_range] = await feed_ranges(container)
    operations = [("upsert", ({"id": f"l{n}", "accountId": "a", "Code": str(n)},)) for n in range(10)]
    await container.execute_item_batch(operations, partition_key="a")
    _, _, found = await drain(container, feed_range, size=3)
    [full] = [page for page in found if page.documents]
    assert len({document["_lsn"] for document in full.documents}) == 1
    assert len(full.documents) == 10


async def test_a_failing_feed_is_reported_with_its_wait_and_can_go_on(faults: Faults, fresh_store: CosmosStore) -> None:
    container = fresh_store.container(NOTES)
    [feed_range] = await feed_ranges(container)
    await put(container, *(f"n{n}" for n in range(9)))
    reader = pages(container, feed_range, None, 3)
    first = await anext(reader)
    once(faults, Refuse(status=429, retry_after_ms=70), Operation.FEED)
    with pytest.raises(CosmosUnavailableError) as caught:
        await anext(reader)
    assert caught.value.retry_after_s == pytest.approx(0.07)
    rest, *_ = await drain(container, feed_range, first.continuation)
    assert len(first.documents) + len(rest) == 9


@pytest.mark.parametrize("mapping", list(MAPPINGS), ids=lambda mapping: mapping.name)
async def test_a_watermark_comes_out_of_every_range(wide: CosmosStore, mapping: Any) -> None:
    container = wide.container(mapping)
    written = await write_watermarks(wide, mapping, epoch=7, ttl=3600)
    ranges = await feed_ranges(container)
    assert written.keys() == {feed_range.key for feed_range in ranges}
    for feed_range in ranges:
        [document], *_ = await drain(container, feed_range)
        assert author_of(document) == Internal("watermark", 7)
        assert document["id"].startswith(RESERVED_ID_PREFIX)
        assert document["ttl"] == 3600
        mark = written[feed_range.key]
        assert (mark.ts, mark.etag, mark.id) == (document["_ts"], document["_etag"], document["id"])


async def test_a_repeated_watermark_comes_out_again_and_another_epoch_is_another_document(wide: CosmosStore) -> None:
    first = await write_watermarks(wide, LINES, 7, 3600)
    container = wide.container(LINES)
    positions = {each.key: (await drain(container, each))[1] for each in await feed_ranges(container)}
    again = await write_watermarks(wide, LINES, 7, 3600)
    next_epoch = await write_watermarks(wide, LINES, 8, 3600)
    for feed_range in await feed_ranges(container):
        documents, *_ = await drain(container, feed_range, positions[feed_range.key])
        assert [document["_etag"] for document in documents] == [
            again[feed_range.key].etag,
            next_epoch[feed_range.key].etag,
        ]
        assert first[feed_range.key].id == again[feed_range.key].id != next_epoch[feed_range.key].id


async def test_a_position_goes_on_through_a_split_with_every_change_once(
    server: CosmosServer, store: CosmosStore
) -> None:
    container = store.container(NOTES)
    [feed_range] = await feed_ranges(container)
    await put(container, *(f"a{n}" for n in range(20)))
    before, position, _ = await drain(container, feed_range)
    await put(container, *(f"b{n}" for n in range(20)))
    stored = server.account.container(store.database, NOTES.container)
    stored.split(stored.partitions[0].id)
    await put(container, *(f"c{n}" for n in range(20)))
    after, position, _ = await drain(container, feed_range, position, size=7)
    assert len(before) == 20
    assert sorted(document["id"] for document in after) == sorted(f"{letter}{n}" for letter in "bc" for n in range(20))
    assert (await drain(container, feed_range, position))[0] == []
    children = await feed_ranges(container)
    assert len(children) == 2
    assert feed_range.key not in {child.key for child in children}
    await put(container, *(f"d{n}" for n in range(20)))
    assert len((await drain(container, feed_range, position))[0]) == 20


async def test_a_watermark_reaches_ranges_that_came_from_a_split(server: CosmosServer, store: CosmosStore) -> None:
    stored = server.account.container(store.database, NOTES.container)
    assert len(await write_watermarks(store, NOTES, 1, 3600)) == 1
    stored.split(stored.partitions[0].id)
    assert len(await write_watermarks(store, NOTES, 1, 3600)) == 2
