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
from core.cosmos.guarded import GuardedWriter
from core.errors import ConfigurationError, DocumentRefusedError, StoreUnavailableError
from core.identity import Identity
from core.local.cosmos.faults import Constant, Delay, Hold, Match, Operation, Refuse, Rule
from core.query import Query
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, NOTES, Kept, Line, Note, note, note_identity, settings_for
from tests.cosmos.guarded_steps import publish
from tests.cosmos.steps import add, line, once, unit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.cosmos.client import CosmosStore
    from core.local.cosmos.faults import Faults
    from core.local.cosmos.server import CosmosServer


async def adding(store: CosmosStore) -> None:
    await add(store, Note(id="n9"))


async def adding_a_batch(store: CosmosStore) -> None:
    await add(store, line("l8"), line("l9"))


async def publishing(store: CosmosStore) -> None:
    writer = GuardedWriter(store, MAPPINGS, Kept(), 4)
    await writer.write([publish(note_identity(f"p{n}"), Stamp(1, 1), note(f"p{n}")) for n in range(8)])


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


OPERATIONS: list[tuple[Callable[[CosmosStore], Awaitable[None]], Operation]] = [
    (adding, Operation.CREATE),
    (adding_a_batch, Operation.BATCH),
    (publishing, Operation.CREATE),
    (getting, Operation.READ),
    (getting_anywhere, Operation.QUERY),
    (counting, Operation.QUERY),
    (streaming, Operation.QUERY),
    (following, Operation.FEED),
]


def session_of(store: CosmosStore) -> Any:
    transport: Any = store.client.client_connection.pipeline_client._pipeline._transport
    return transport.session


async def hanging(faults: Faults) -> None:
    """Wait until a request is held back, and its client with it."""
    async with asyncio.timeout(10):
        while not list(faults.held):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)


async def nothing_is_left(before: set[asyncio.Task[Any]], faults: Faults) -> None:
    """Fail where a task still runs; pytest fails where what is collected now gives a warning."""
    gc.collect()
    await asyncio.sleep(0)
    faults.clear()  # the server's own tasks end with what they waited for
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - before == set()


@pytest.mark.parametrize(("work_on", "operation"), OPERATIONS, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_cancelled_operation_leaves_nothing_behind(
    server: CosmosServer,
    store: CosmosStore,
    faults: Faults,
    work_on: Callable[[CosmosStore], Awaitable[None]],
    operation: Operation,
) -> None:
    before = asyncio.all_tasks()
    opened: list[CosmosStore] = []
    await store.container(NOTES).upsert_item(note("n1"))

    async def work() -> None:
        async with open_cosmos(settings_for(server, cosmos_database=store.database)) as fresh:
            opened.append(fresh)
            for mapping in (NOTES, LINES):
                await fresh.existing_container(mapping)
            once(faults, Hold(client="waits"), operation)
            await work_on(fresh)

    task = asyncio.create_task(work())
    await hanging(faults)
    session = session_of(opened[0])
    assert not session.closed
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.closed
    await nothing_is_left(before, faults)


@pytest.mark.parametrize("answer", [None, 401, 503])
async def test_an_opening_that_fails_or_is_cancelled_leaves_nothing_behind(
    server: CosmosServer, faults: Faults, monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    monkeypatch.setenv("AZURE_COSMOS_HEALTH_CHECK_RETRY_AFTER_MS", "1")
    before = asyncio.all_tasks()
    fault = Hold(client="waits") if answer is None else Refuse(status=answer)
    once(faults, fault, Operation.ACCOUNT, times=20)

    async def work() -> None:
        async with open_cosmos(settings_for(server)):
            pytest.fail("it opened")

    task = asyncio.create_task(work())
    if answer is None:
        await hanging(faults)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises((ConfigurationError, StoreUnavailableError)):
            await task
    await nothing_is_left(before, faults)


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
    store: CosmosStore, faults: Faults, fresh_store: CosmosStore
) -> None:
    await add(store, line("l1"), line("l2"), line("l3"))
    documents = CosmosDocuments(fresh_store, MAPPINGS)
    for _ in range(2):  # by the second one the client knows the container's physical partitions
        await add(fresh_store, line(uuid.uuid4().hex))
        assert await documents.read(Identity.of("Line", ["a"], "l1")) is not None
    before = asyncio.all_tasks()
    reads = frozenset({Operation.READ})
    faults.add(Rule(do=Refuse(status=503), on=Match(operations=reads, id="l1")))
    faults.add(Rule(do=Delay(duration=Constant(seconds=0.3)), on=Match(operations=reads)))
    with pytest.raises(StoreUnavailableError):
        await add(fresh_store, line("l1"), line("l2"), line("l3"))
    assert {task for task in asyncio.all_tasks() - before if "/core/cosmos/" in repr(task)} == set()
