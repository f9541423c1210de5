"""Session consistency: a read is sent with what its own container has shown this client, no more and no less."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges, pages
from core.cosmos.guarded import GuardedWriter, Publish, Written
from core.identity import Identity
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, NOTES, Kept, Line, Note, note, note_identity, settings_for
from tests.cosmos.steps import add, line, unit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.cosmos.client import CosmosStore
    from core.local.cosmos.server import CosmosServer
    from tests.cosmos.meddler import Meddler


@pytest.fixture
async def wide(server: CosmosServer, meddler: Meddler) -> AsyncIterator[CosmosStore]:
    """A database whose containers have five physical partitions, reached by a client that has seen none of it."""
    settings = settings_for(server)
    async with open_cosmos(settings) as store:
        await store.provision(MAPPINGS, throughput=30_000)
        for n in range(40):
            await store.container(NOTES).create_item(note(f"n{n}"))
    async with open_cosmos(settings_for(meddler, cosmos_database=settings.cosmos_database)) as store:
        yield store


def tokens_sent(meddler: Meddler, path: str) -> list[dict[str, int]]:
    """Return the session token of each read of a path: the LSN by the id of the physical partition."""
    sent = []
    for head in meddler.heads:
        first, *fields = head.split("\r\n")
        if first.startswith("GET") and path in first:
            headers = dict(field.lower().split(": ", 1) for field in fields)
            parts = [part.split(":-1#") for part in headers.get("x-ms-session-token", "").split(",") if part]
            sent.append({range_id: int(lsn) for range_id, lsn in parts})
    return sent


@pytest.mark.parametrize("first", ["add", "batch", "guarded"])
async def test_a_read_after_the_first_write_of_a_container_is_not_sent_with_the_session_of_another(
    server: CosmosServer, meddler: Meddler, meddled_store: CosmosStore, first: str
) -> None:
    """A client that has done nothing but write: what its reads know of the session, the writes' answers told it."""
    for n in range(5):
        await add(meddled_store, Note(id=f"n{n}"))
    if first == "guarded":
        writer = GuardedWriter(meddled_store, MAPPINGS, Kept(), 3600, 1)
        content = {"id": "l1", "accountId": "a", "Text": "", "Code": "l1"}
        [outcome] = await writer.write([Publish(Identity.of("Line", ["a"], "l1"), Stamp(1, 1), content, loaded_in=1)])
        assert isinstance(outcome, Written)
    else:
        await add(meddled_store, *([line("l1")] if first == "add" else [line("l1"), line("l2")]))
    async with unit(meddled_store) as work:
        assert await work[Line].exists("l1", partition_key="a")
        assert await work[Line].exists("l1")
        assert await work[Note].exists("n4")
    for path, name in (("/Lines/docs/l1/ ", "Lines"), ("/Notes/docs/n4/ ", "Notes")):
        [partition] = server.account.container(meddled_store.database, name).partitions
        assert tokens_sent(meddler, path) == [{partition.id: partition.lsn}]


async def test_a_point_read_is_as_new_as_the_feed_that_its_client_has_read(meddler: Meddler, wide: CosmosStore) -> None:
    container = wide.container(NOTES)
    documents = CosmosDocuments(wide, MAPPINGS)
    checked = 0
    for feed_range in await feed_ranges(container):
        async for page in pages(container, feed_range, None, 4):
            for document in page.documents:
                newest = max(item["_lsn"] for item in page.documents)
                assert await documents.read(note_identity(document["id"])) is not None
                [sent] = tokens_sent(meddler, f"/Notes/docs/{document['id']}/ ")
                [lsn] = sent.values()
                assert lsn >= newest >= document["_lsn"]
                checked += 1
    assert checked == 40


async def test_a_point_read_is_as_new_as_the_feed_also_where_the_range_was_split_meanwhile(
    server: CosmosServer, meddler: Meddler, store: CosmosStore, meddled_store: CosmosStore
) -> None:
    container = meddled_store.container(NOTES)
    documents = CosmosDocuments(meddled_store, MAPPINGS)
    await store.container(NOTES).create_item(note("n0"))
    [feed_range] = await feed_ranges(container)
    position = [page.continuation async for page in pages(container, feed_range, None, 4)][-1]
    assert await documents.read(note_identity("n0")) is not None  # the client knows the range as it was
    stored = server.account.container(store.database, NOTES.container)
    stored.split(stored.partitions[0].id)
    ids = [uuid.uuid4().hex for _ in range(20)]
    for id_ in ids:
        await store.container(NOTES).create_item(note(id_))
    seen = {}
    async for page in pages(container, feed_range, position, 4):
        for document in page.documents:
            seen[document["id"]] = document["_lsn"]
            assert await documents.read(note_identity(document["id"])) is not None
            [sent] = tokens_sent(meddler, f"/Notes/docs/{document['id']}/ ")
            assert max(sent.values()) >= document["_lsn"]
    assert seen.keys() == set(ids)
