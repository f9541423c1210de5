"""Whatever ends the work, a failure or a cancellation, no connection, task or coroutine is left behind."""

from __future__ import annotations

import asyncio
import gc
import sys
import uuid
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.client import open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges, pages
from core.cosmos.guarded import GuardedWriter, Publish
from core.errors import ConfigurationError, DocumentRefusedError, StoreUnavailableError
from core.identity import Identity
from core.query import Query
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, NOTES, Kept, Line, Note, note, note_identity, settings_for
from tests.cosmos.meddler import Answer, Hang, Meddler
from tests.cosmos.steps import add, line, unit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.cosmos.client import CosmosStore


async def adding(store: CosmosStore) -> None:
    await add(store, Note(id="n9"))


async def adding_a_batch(store: CosmosStore) -> None:
    await add(store, line("l8"), line("l9"))


async def publishing(store: CosmosStore) -> None:
    writer = GuardedWriter(store, MAPPINGS, Kept(), 3600, 4)
    await writer.write([Publish(note_identity(f"p{n}"), Stamp(1, 1), note(f"p{n}"), loaded_in=1) for n in range(8)])


async def getting(store: CosmosStore) -> None:
    await unit(store)[Note].get_by_id("n1")


async def getting_anywhere(store: CosmosStore) -> None:
    await unit(store)[Line].get_by_id("l1")


async def counting(store: CosmosStore) -> None:
    await unit(store)[Note].count()


async def streaming(store: CosmosStore) -> None:
    async with aclosing(unit(store)[Note].stream(Query(limit=5))) as notes:
        async for _ in notes:
            pass


async def following(store: CosmosStore) -> None:
    container = store.container(NOTES)
    for feed_range in await feed_ranges(container, refresh=False):
        async with aclosing(pages(container, feed_range, None, 10)) as found:
            async for _ in found:
                pass


OPERATIONS: list[tuple[Callable[[CosmosStore], Awaitable[None]], bytes]] = [
    (adding, b"POST"),
    (adding_a_batch, b"POST"),
    (publishing, b"POST"),
    (getting, b"GET"),
    (getting_anywhere, b"POST"),
    (counting, b"POST"),
    (streaming, b"POST"),
    (following, b"GET"),
]


def session_of(store: CosmosStore) -> Any:
    transport: Any = store.client.client_connection.pipeline_client._pipeline._transport
    return transport.session


async def nothing_is_left(before: set[asyncio.Task[Any]], meddler: Meddler) -> None:
    """Fail where a task still runs; pytest fails where what is collected now gives a warning."""
    gc.collect()
    await asyncio.sleep(0)
    await meddler.stop()
    assert asyncio.all_tasks() - before == set()


@pytest.mark.parametrize(("operation", "verb"), OPERATIONS, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_cancelled_operation_leaves_nothing_behind(
    store: CosmosStore, meddler: Meddler, operation: Callable[[CosmosStore], Awaitable[None]], verb: bytes
) -> None:
    before = asyncio.all_tasks()
    opened: list[CosmosStore] = []
    await store.container(NOTES).upsert_item(note("n1"))

    async def work() -> None:
        async with open_cosmos(settings_for(meddler, cosmos_database=store.database)) as meddled:
            opened.append(meddled)
            for mapping in (NOTES, LINES):
                await meddled.existing_container(mapping)
            meddler.plans += [Hang(verb)]
            await operation(meddled)

    task = asyncio.create_task(work())
    await asyncio.wait_for(meddler.hanging.wait(), 10)
    session = session_of(opened[0])
    assert not session.closed
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.closed
    await nothing_is_left(before, meddler)


@pytest.mark.parametrize("answer", [None, 401, 503])
async def test_an_opening_that_fails_or_is_cancelled_leaves_nothing_behind(
    meddler: Meddler, monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    monkeypatch.setenv("AZURE_COSMOS_HEALTH_CHECK_RETRY_AFTER_MS", "1")
    before = asyncio.all_tasks()
    meddler.plans += [Hang(b"GET")] if answer is None else [Answer(b"GET", answer)] * 20

    async def work() -> None:
        async with open_cosmos(settings_for(meddler)):
            pytest.fail("it opened")

    task = asyncio.create_task(work())
    if answer is None:
        await asyncio.wait_for(meddler.hanging.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises((ConfigurationError, StoreUnavailableError)):
            await task
    await nothing_is_left(before, meddler)


async def test_a_stream_that_meets_a_bad_document_or_is_left_early_is_closed_down_to_the_request(
    store: CosmosStore,
) -> None:
    await add(store, *(line(f"l{n}") for n in range(5)))
    await store.container(NOTES).upsert_item(note("n1", Size="bad"))
    left: list[Any] = []
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=left.append)  # where generators go that nobody closed
    try:
        for read in (unit(store)[Note].list, unit(store)[Note].count, partial(streaming, store)):
            with suppress(DocumentRefusedError):
                await read()
        async with aclosing(unit(store)[Line].stream(Query(limit=3))) as lines:
            await anext(lines)
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert [each.__qualname__ for each in left if "core/cosmos" in each.ag_code.co_filename] == []


async def test_reads_that_look_for_tombstones_have_all_ended_when_one_has_failed(
    store: CosmosStore, meddler: Meddler, meddled_store: CosmosStore
) -> None:
    await add(store, line("l1"), line("l2"), line("l3"))
    documents = CosmosDocuments(meddled_store, MAPPINGS)
    for _ in range(2):  # by the second one the client knows the container's physical partitions
        await add(meddled_store, line(uuid.uuid4().hex))
        assert await documents.read(Identity.of("Line", ["a"], "l1")) is not None
    before = asyncio.all_tasks()
    meddler.plans += [Answer(b"GET", 503)]
    with pytest.raises(StoreUnavailableError):
        await add(meddled_store, line("l1"), line("l2"), line("l3"))
    assert {task for task in asyncio.all_tasks() - before if "CosmosDocuments.read" in repr(task)} == set()
