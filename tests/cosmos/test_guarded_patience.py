"""A guarded write waits for infrastructure for a while, then postpones the one document or reports a dead store."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from core.cosmos.breaker import FAILURES, PROBES, BreakerState, StoreDownError
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import GuardedWriter, Outcome, Postponed, Publish, Unchanged, Written
from core.errors import TransientError
from core.local.cosmos.faults import WRITES, Budget, Constant, Cut, Delay, Down, Match, Operation, Refuse, Rule
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, NOTES, Kept, note, note_identity
from tests.cosmos.guarded_steps import lines, publish, state
from tests.cosmos.steps import once

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.local.cosmos.faults import Faults
    from tests.cosmos.steps import Seen


def patient(store: CosmosStore, patience_s: float = 3.0, ru_per_second: float | None = None) -> GuardedWriter:
    return GuardedWriter(store, MAPPINGS, Kept(), 8, patience_s=patience_s, ru_per_second=ru_per_second)


def notes(count: int, version: int = 1) -> list[Publish]:
    return [publish(note_identity(f"n{n}"), Stamp(1, version), note(f"n{n}")) for n in range(count)]


def hit(id_: str) -> Match:
    return Match(operations=WRITES, id=id_)


@pytest.mark.parametrize("status", [403, 408, 429, 449, 500, 503])
async def test_what_infrastructure_turned_away_is_sent_again_until_it_is_written(
    faults: Faults, store: CosmosStore, status: int
) -> None:
    writer = patient(store)
    faults.add(Rule(do=Refuse(status=status, retry_after_ms=20), on=hit("n1"), times=3, name="busy"))
    outcomes = await writer.write(notes(4))
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert faults.injected["busy"] == 3
    assert writer.state().retries == 3
    assert writer.state().throttled == (3 if status == 429 else 0)


async def test_no_document_comes_back_before_the_time_that_it_was_asked_to_wait(
    faults: Faults, store: CosmosStore
) -> None:
    await store.existing_container(NOTES)
    faults.add(Rule(do=Refuse(status=429, retry_after_ms=300), on=hit("n1"), times=2))
    began = time.monotonic()
    finished: dict[str, float] = {}

    def on_outcome(item: Publish, _: Outcome) -> None:
        finished[item.identity.id] = time.monotonic() - began

    await patient(store).write(notes(4), on_outcome=on_outcome)
    assert finished.keys() == {"n0", "n1", "n2", "n3"}
    assert finished["n1"] >= 0.6
    assert max(finished[id_] for id_ in ("n0", "n2", "n3")) < 0.6  # nobody else waits for it


async def test_a_document_that_infrastructure_keeps_failing_for_is_postponed_while_others_are_written(
    faults: Faults, store: CosmosStore, documents: CosmosDocuments
) -> None:
    writer = patient(store, 0.4)
    faults.add(Rule(do=Refuse(status=503), on=hit("n1"), name="down"))

    async def keep_writing() -> list[Outcome]:
        return [(await writer.write([state(1, version, id_="other")]))[0] for version in range(1, 40)]

    outcomes, others = await asyncio.gather(writer.write(notes(4)), keep_writing())
    assert isinstance(outcomes[1], Postponed)
    assert "503" in outcomes[1].reason
    assert all(isinstance(outcome, Written) for outcome in [*others, *outcomes[:1], *outcomes[2:]])
    assert writer.state().postponed == 1
    assert writer.state().breaker is BreakerState.CLOSED
    # Nobody waits for it a second time, while it is known to be ill.
    injected = faults.injected["down"]
    [again] = await writer.write(notes(2)[1:])
    assert isinstance(again, Postponed)
    assert faults.injected["down"] == injected + 1
    faults.clear()
    assert isinstance((await writer.write(notes(2)))[1], Written)
    assert await documents.read(note_identity("n1"))


async def test_a_document_that_hangs_is_postponed_at_once_when_it_has_hung_for_too_long(
    faults: Faults, store: CosmosStore
) -> None:
    writer = patient(store, 0.2)
    faults.add(Rule(do=Delay(duration=Constant(seconds=0.4)), on=hit("n1"), name="slow"))
    faults.add(Rule(do=Cut(), on=hit("n1")))
    outcomes = await writer.write(notes(4))
    assert [type(outcome) for outcome in outcomes] == [Written, Postponed, Written, Written]
    assert faults.injected["slow"] == 1


async def test_a_logical_partition_that_is_down_is_postponed_as_a_whole(faults: Faults, store: CosmosStore) -> None:
    writer = patient(store, 0.3)
    faults.add(Rule(do=Refuse(status=503), on=Match(operations=WRITES, partition_key=("a",))))

    async def keep_writing() -> None:
        for version in range(1, 30):
            assert all(isinstance(outcome, Written) for outcome in await writer.write(lines(2, version, "b")))

    outcomes, _ = await asyncio.gather(writer.write([*lines(3, 1), *lines(3, 1, "c")]), keep_writing())
    assert [type(outcome) for outcome in outcomes] == [Postponed] * 3 + [Written] * 3
    assert writer.state().postponed == 3


async def test_what_nobody_could_write_is_no_fault_of_one_document(faults: Faults, store: CosmosStore) -> None:
    faults.add(Rule(do=Refuse(status=503), on=Match(operations=WRITES)))
    with pytest.raises(CosmosUnavailableError):
        await patient(store, 0.3).write([*notes(2), *lines(3, 1)])


async def test_a_container_that_does_nothing_is_left_alone_and_others_go_on(
    faults: Faults, seen: Seen, store: CosmosStore
) -> None:
    writer = patient(store)
    faults.add(Rule(do=Down(), on=Match(operations=WRITES, container=NOTES.container), name="down"))
    began = time.monotonic()
    with pytest.raises(StoreDownError):
        await writer.write(notes(20))
    assert 1.0 <= time.monotonic() - began < 3.0
    assert writer.state().breaker is BreakerState.OPEN
    assert faults.injected["down"] >= FAILURES
    seen.forget()
    with pytest.raises(StoreDownError) as caught:
        await writer.write(notes(20))
    assert seen.operations == []
    assert 0 < (caught.value.retry_after_s or 0) <= 0.5
    assert all(isinstance(outcome, Written) for outcome in await writer.write(lines(2, 1)))
    await asyncio.sleep(caught.value.retry_after_s or 0)
    injected = faults.injected["down"]
    with pytest.raises(StoreDownError) as caught:
        await writer.write(notes(20))
    assert faults.injected["down"] == injected + PROBES
    faults.clear()
    await asyncio.sleep(caught.value.retry_after_s or 0)
    assert all(isinstance(outcome, Written | Unchanged) for outcome in await writer.write(notes(20)))
    assert writer.state().breaker is BreakerState.CLOSED


async def test_a_single_document_that_is_down_cannot_keep_the_others_of_an_open_container_out(
    faults: Faults, store: CosmosStore
) -> None:
    writer = patient(store, 0.6)
    writer._lanes.of(NOTES.container).breaker._open()
    with pytest.raises(StoreDownError):
        await writer.write(notes(8))
    faults.add(Rule(do=Refuse(status=503), on=hit("n0")))
    await asyncio.sleep(0.5)
    outcomes = await writer.write(notes(8))
    assert all(isinstance(outcome, Written) for outcome in outcomes[1:])
    assert isinstance(outcomes[0], Postponed)


class LeaseLostError(TransientError):
    """The caller may not write any more."""


@pytest.mark.parametrize("version", [1, 2])
async def test_nothing_is_sent_once_the_caller_may_not_write_any_more(
    seen: Seen, store: CosmosStore, documents: CosmosDocuments, version: int
) -> None:
    writer = patient(store)
    if version > 1:
        await writer.write(notes(40))
    await store.existing_container(NOTES)
    seen.forget()
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise LeaseLostError

    with pytest.raises(LeaseLostError):
        await writer.write(notes(40, version), check=check)
    assert len([operation for operation in seen.operations if operation in WRITES]) == 3
    found = [await documents.read(item.identity) for item in notes(40)]
    assert sum(document is not None and document["crossfeed"]["version"] == version for document in found) == 3


async def test_a_lease_that_is_lost_while_a_document_waits_to_be_sent_again_is_seen(
    faults: Faults, seen: Seen, store: CosmosStore
) -> None:
    once(faults, Refuse(status=429, retry_after_ms=50), Operation.CREATE, Operation.BATCH, times=2)
    for items in (notes(1), lines(3, 1)):
        seen.forget()
        allowed = [None]

        def check(allowed: list[None] = allowed) -> None:
            if not allowed:
                raise LeaseLostError
            allowed.pop()

        with pytest.raises(LeaseLostError):
            await patient(store).write(items, check=check)
        assert len([operation for operation in seen.operations if operation in WRITES]) == 1


async def test_concurrency_falls_when_the_store_throttles_and_rises_again(faults: Faults, store: CosmosStore) -> None:
    writer = patient(store)
    await writer.write(notes(8))
    faults.add(Rule(do=Budget(ru_per_second=400, burst=20, per="container"), name="budget"))
    assert all(isinstance(outcome, Written) for outcome in await writer.write(notes(40, 2)))
    narrow = writer.state().containers[NOTES.container].limit
    assert narrow < 8
    # One after the other they fit into the budget: few are turned away although many wait.
    assert 0 < faults.injected["budget"] < 80
    faults.clear()
    await writer.write(notes(60, 3))
    assert writer.state().containers[NOTES.container].limit > narrow
    assert writer.state().containers[NOTES.container].under_way == 0


async def test_a_relay_keeps_to_its_own_budget_and_is_never_throttled(faults: Faults, store: CosmosStore) -> None:
    writer = patient(store, ru_per_second=300.0)
    began = time.monotonic()
    await writer.write(notes(70))
    took = time.monotonic() - began
    used = writer.state().request_units
    assert used >= 70 * 6
    assert used <= 300 * (1 + took) + 100
    assert took > 0.3
