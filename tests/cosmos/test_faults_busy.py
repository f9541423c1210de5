"""Repositories and units of work wait for a busy Cosmos DB as it asks, and say truly what was turned away."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from core.cosmos.failures import CosmosUnavailableError
from core.errors import StoreUnavailableError
from core.local.cosmos.faults import (
    READS,
    WRITES,
    Budget,
    Match,
    Operation,
    Refuse,
    Rule,
)
from tests.cosmos.example import Line, Note
from tests.cosmos.steps import Seen, add, get, have, line, once, unit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.cosmos.client import CosmosStore
    from core.local.cosmos.faults import Faults


async def test_what_a_budget_turns_away_waits_as_asked_and_all_of_it_goes_through(
    faults: Faults, store: CosmosStore
) -> None:
    await add(store, Note(id="n0"))
    faults.add(Rule(do=Budget(ru_per_second=800, burst=10, per="container"), name="budget"))
    started = time.monotonic()
    await asyncio.gather(*(add(store, Note(id=f"n{n}")) for n in range(1, 40)))
    assert len(await unit(store)[Note].list()) == 40
    # 39 writes of 6.29 request units at 800 a second.
    assert 0.25 < time.monotonic() - started < 4
    assert faults.injected["budget"] > 0


WORK: list[Callable[[CosmosStore], Awaitable[object]]] = [
    lambda store: add(store, line("l1")),
    lambda store: add(store, line("l2"), line("l3")),
    lambda store: unit(store)[Line].get_by_id("l0", partition_key="a"),
    lambda store: unit(store)[Line].count(),
]


@pytest.mark.parametrize("work", WORK, ids=["add", "batch", "get", "count"])
async def test_no_request_comes_back_before_the_time_that_it_was_asked_to_wait(
    faults: Faults, store: CosmosStore, work: Callable[[CosmosStore], Awaitable[object]]
) -> None:
    await add(store, line("l0"))
    await unit(store)[Line].count()
    burst = Rule(do=Refuse(status=429, retry_after_ms=60), on=Match(operations=WRITES | READS), times=3, name="busy")
    faults.add(burst)
    started = time.monotonic()
    await work(store)
    assert faults.injected["busy"] == 3
    assert 3 * 0.06 <= time.monotonic() - started < 1


async def test_a_store_that_asks_to_wait_for_longer_than_anybody_would_is_reported_at_once(
    faults: Faults, store: CosmosStore
) -> None:
    await add(store, Note(id="n0"))
    faults.add(Rule(do=Refuse(status=429, retry_after_ms=60_000)))
    async with asyncio.timeout(1):
        with pytest.raises(CosmosUnavailableError) as of_write:
            await add(store, Note(id="n1"))
        with pytest.raises(CosmosUnavailableError) as of_read:
            await get(store, "n0")
    assert of_write.value.retry_after_s == of_read.value.retry_after_s == 60


async def test_the_look_for_tombstones_waits_as_asked_too(faults: Faults, store: CosmosStore) -> None:
    entity = Note(id="n1")
    await add(store, entity)
    async with unit(store) as work:
        await work[Note].delete(entity)
        await work.commit()
    once(faults, Refuse(status=429, retry_after_ms=20), Operation.READ, times=3)
    await add(store, Note(id="n1", title="again"))
    assert (await have(store)).title == "again"


@pytest.mark.parametrize("status", [403, 449])
async def test_what_was_turned_away_without_a_wait_was_certainly_not_done(
    faults: Faults, seen: Seen, store: CosmosStore, status: int
) -> None:
    faults.add(Rule(do=Refuse(status=status), on=Match(operations=frozenset({Operation.CREATE, Operation.BATCH}))))
    for entities in ([Note(id="n1")], [line("l1"), line("l2")]):
        with pytest.raises(StoreUnavailableError):
            await add(store, *entities)
    faults.clear()
    assert await get(store) is None
    assert await unit(store)[Line].list() == []
