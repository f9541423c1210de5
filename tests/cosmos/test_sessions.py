"""Session consistency: a read is sent with what its own container has shown this client, no more and no less.

A replica that is one version behind what the client has seen refuses the read; would the read say less, it would be
answered with what was, and would it say more, an up-to-date server would refuse it too.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges, pages
from core.cosmos.guarded import GuardedWriter, Written
from core.errors import StoreUnavailableError
from core.identity import Identity
from core.local.cosmos.faults import ByVersions, Lag, Match, Operation, Rule
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, NOTES, Kept, Line, Note, note, note_identity, settings_for
from tests.cosmos.guarded_steps import publish
from tests.cosmos.steps import add, line, unit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.local.cosmos.faults import Faults
    from core.local.cosmos.server import CosmosServer


@pytest.fixture
def past(faults: Faults) -> None:
    """Let the server remember its past from here on: it does as long as there is any rule that could show it."""
    faults.add(Rule(do=Lag(), on=Match(database="of nobody")))


@contextmanager
def replica_behind(faults: Faults, versions: int = 1) -> Iterator[None]:
    """Let point reads meet a replica that has not seen so many of the newest commits."""
    behind = ByVersions(least=versions, most=versions)
    faults.add(Rule(do=Lag(behind=behind), on=Match(operations=frozenset({Operation.READ})), name="behind"))
    yield
    faults.remove("behind")


@pytest.fixture
async def wide(server: CosmosServer, past: None) -> AsyncIterator[CosmosStore]:
    """A database whose containers have five physical partitions, by a client that has seen none of it."""
    settings = settings_for(server)
    async with open_cosmos(settings) as store:
        await store.provision(MAPPINGS, throughput=30_000)
        for n in range(40):
            await store.container(NOTES).create_item(note(f"n{n}"))
    async with open_cosmos(settings_for(server, cosmos_database=settings.cosmos_database)) as store:
        yield store


@pytest.mark.parametrize("first", ["add", "batch", "guarded"])
async def test_a_read_after_the_first_write_of_a_container_is_not_sent_with_the_session_of_another(
    past: None, faults: Faults, fresh_store: CosmosStore, first: str
) -> None:
    """A client that has done nothing but write: what its reads know of the session, the writes' answers told it."""
    for n in range(5):
        await add(fresh_store, Note(id=f"n{n}"))
    if first == "guarded":
        writer = GuardedWriter(fresh_store, MAPPINGS, Kept(), 1)
        content = {"id": "l1", "accountId": "a", "Text": "", "Code": "l1"}
        [outcome] = await writer.write([publish(Identity.of("Line", ["a"], "l1"), Stamp(1, 1), content)])
        assert isinstance(outcome, Written)
    else:
        await add(fresh_store, *([line("l1")] if first == "add" else [line("l1"), line("l2")]))
    documents = CosmosDocuments(fresh_store, MAPPINGS)
    with replica_behind(faults):
        for identity in (Identity.of("Line", ["a"], "l1"), note_identity("n4")):
            await refused(documents, identity)
    async with unit(fresh_store) as work:
        assert await work[Line].exists("l1", partition_key="a")
        assert await work[Line].exists("l1")
        assert await work[Note].exists("n4")


async def test_a_point_read_is_as_new_as_the_feed_that_its_client_has_read(
    server: CosmosServer, faults: Faults, wide: CosmosStore
) -> None:
    container = wide.container(NOTES)
    documents = CosmosDocuments(wide, MAPPINGS)
    checked = 0
    for feed_range in await feed_ranges(container):
        async for page in pages(container, feed_range, None, 4):
            for document in page.documents:
                newest = max(item["_lsn"] for item in page.documents)
                with replica_behind(faults, current_lsn(server, wide, document) - newest + 1):
                    await refused(documents, note_identity(document["id"]))
                assert await documents.read(note_identity(document["id"])) is not None
                checked += 1
    assert checked == 40


async def test_a_point_read_is_as_new_as_the_feed_also_where_the_range_was_split_meanwhile(
    past: None, server: CosmosServer, faults: Faults, store: CosmosStore, fresh_store: CosmosStore
) -> None:
    container = fresh_store.container(NOTES)
    documents = CosmosDocuments(fresh_store, MAPPINGS)
    await store.container(NOTES).create_item(note("n0"))
    [feed_range] = await feed_ranges(container)
    position = [page.continuation async for page in pages(container, feed_range, None, 4)][-1]
    assert await documents.read(note_identity("n0")) is not None  # the client knows the range as it was
    stored = server.account.container(store.database, NOTES.container)
    stored.split(stored.partitions[0].id)
    ids = [uuid.uuid4().hex for _ in range(20)]
    for id_ in ids:
        await store.container(NOTES).create_item(note(id_))
    seen = set()
    async for page in pages(container, feed_range, position, 4):
        for document in page.documents:
            with replica_behind(faults, current_lsn(server, store, document) - document["_lsn"] + 1):
                await refused(documents, note_identity(document["id"]))
            assert await documents.read(note_identity(document["id"])) is not None
            seen.add(document["id"])
    assert seen == set(ids)


def current_lsn(server: CosmosServer, store: CosmosStore, document: Document) -> int:
    """Return how far the partition is in which a note lives."""
    stored = server.account.container(store.database, NOTES.container)
    [lsn] = {part.lsn for part in stored.partitions for other in part.by_rid.values() if other.id == document["id"]}
    return lsn


async def refused(documents: CosmosDocuments, identity: Identity) -> None:
    with pytest.raises(StoreUnavailableError, match="404/1002"):
        await documents.read(identity)
