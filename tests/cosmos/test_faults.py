"""Repositories, unit of work and guarded write while Cosmos DB is busy, behind or away: what they say is true."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos import repository
from core.cosmos.client import open_cosmos
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import GuardedWriter, Publish, Superseded, Unchanged, Written
from core.envelope import Origin, Ours, author_of
from core.errors import AlreadyExistsError, ConcurrencyError, OutcomeUnknownError, StoreUnavailableError
from core.identity import Identity
from core.local.cosmos.faults import (
    READS,
    WRITES,
    Applied,
    Budget,
    ByVersions,
    Constant,
    Cut,
    Delay,
    Down,
    Hold,
    Lag,
    Match,
    Operation,
    Refuse,
    Rule,
)
from core.query import Query
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, NOTES, Kept, Line, Note, note, note_identity, settings_for
from tests.cosmos.steps import Seen, add, get, have, line, once, raw, unit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.local.cosmos.faults import Action, Faults
    from core.local.cosmos.server import CosmosServer

READING = frozenset({Operation.READ, Operation.QUERY})
L1 = Identity.of("Line", ["a"], "l1")


def state(version: int, id_: str = "n1", *, title: str = "") -> Publish:
    return Publish(note_identity(id_), Stamp(1, version), note(id_, Title=title), loaded_in=1)


def line_state(version: int) -> Publish:
    content = {"id": "l1", "accountId": "a", "Text": str(version), "Code": "c"}
    return Publish(L1, Stamp(1, version), content, loaded_in=1)


def writer_on(store: CosmosStore) -> GuardedWriter:
    return GuardedWriter(store, MAPPINGS, Kept(), tombstone_ttl_s=3600, concurrency=8)


def stay_behind(faults: Faults, versions: int) -> None:
    """Let all reads meet a replica that is so many commits behind, but not behind what is there now."""
    behind = ByVersions(least=versions, most=versions)
    faults.add(Rule(do=Lag(behind=behind), on=Match(operations=READING), name="behind"))


# -- busy


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


# -- out of reach


@pytest.mark.parametrize(
    "fault",
    [Refuse(status=503), Cut(), Cut(moment="middle")],
    ids=lambda fault: f"{fault.kind} {getattr(fault, 'status', fault.moment)}",
)
async def test_reads_are_repeated_and_show_each_entity_once(
    faults: Faults, store: CosmosStore, fault: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query of several pages fails on its second page: what came before is not shown twice."""
    monkeypatch.setattr(repository, "PAGE_SIZE", 5)
    await add(store, *(line(f"l{n}") for n in range(12)))
    ids = sorted(f"l{n}" for n in range(12))
    reads = unit(store)[Line]
    await reads.count()
    for read in (reads.list, lambda: reads.list(Query(limit=11)), reads.count, lambda: reads.get_by_id("l7")):
        faults.add(Rule(do=fault, on=Match(operations=READING), times=1, skip=1, name="second"))
        faults.add(Rule(do=fault, on=Match(operations=READING), times=1, name="first"))
        found = await read()
        assert faults.injected["first"] == 1
        match found:
            case list():
                assert sorted(entity.id for entity in found) == ids[: len(found)]
                assert len(found) in {11, 12}
            case int():
                assert found == 12
            case other:
                assert other is not None
                assert other.id == "l7"
        faults.clear()


async def test_a_stream_that_fails_half_way_says_so(
    faults: Faults, store: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "PAGE_SIZE", 5)
    await add(store, *(line(f"l{n}") for n in range(12)))
    faults.add(Rule(do=Cut(moment="middle"), on=Match(operations=frozenset({Operation.QUERY})), skip=1))
    found: list[str] = []

    async def read_one_by_one() -> None:
        async with aclosing(unit(store)[Line].stream()) as lines:
            async for each in lines:
                found.append(each.id)  # noqa: PERF401 - what came before the failure counts

    with pytest.raises(StoreUnavailableError):
        await read_one_by_one()
    assert len(found) == len(set(found)) < 12


async def test_a_partition_that_is_down_holds_back_only_its_own_documents(faults: Faults, server: CosmosServer) -> None:
    async with open_cosmos(settings_for(server)) as store:
        await store.provision(MAPPINGS, throughput=12_000)
        await store.existing_container(NOTES)
        faults.add(Rule(do=Down(), on=Match(container="Notes", range_id="1")))
        outcomes = {}
        for n in range(20):
            try:
                [outcomes[n]] = await writer_on(store).write([state(1, f"n{n}")])
            except CosmosUnavailableError:
                with pytest.raises(OutcomeUnknownError):
                    await add(store, Note(id=f"n{n}"))
                continue
            assert await get(store, f"n{n}") is not None
        assert 0 < len(outcomes) < 20
        assert all(isinstance(outcome, Written) for outcome in outcomes.values())
        faults.clear()
        for n in range(20):
            [outcome] = await writer_on(store).write([state(1, f"n{n}")])
            assert isinstance(outcome, Unchanged if n in outcomes else Written)


async def test_a_slow_answer_is_waited_for(faults: Faults, seen: Seen, store: CosmosStore) -> None:
    await store.existing_container(NOTES)
    for moment in ("before", "after"):
        faults.add(
            Rule(do=Delay.model_validate({"duration": Constant(seconds=0.05), "moment": moment}), on=Match(id="n1"))
        )
    await add(store, Note(id="n1"))
    assert await get(store) is not None
    assert [seen.operations.count(operation) for operation in (Operation.CREATE, Operation.READ)] == [1, 1]


# -- late


@pytest.mark.parametrize("client", ["cut", "timeout"])
@pytest.mark.parametrize("version", [1, 2])
async def test_a_guarded_write_that_comes_late_changes_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, documents: CosmosDocuments, version: int, client: Any
) -> None:
    writer = writer_on(store)
    if version > 1:
        await writer.write([state(1)])
    once(faults, Hold(client=client), Operation.CREATE if version == 1 else Operation.REPLACE)
    with pytest.raises(CosmosUnavailableError):
        await writer.write([state(version, title="late")])
    [held] = faults.held
    await writer_on(fresh_store).write([state(version, title="late")])
    await writer_on(fresh_store).write([state(version + 1, title="newer")])
    assert faults.held.release(held.id) == Applied(409 if version == 1 else 412, 0)
    found = await raw(documents, note_identity())
    assert author_of(found) == Ours(Stamp(1, version + 1), Origin.POSTGRES, deleted=False)
    assert found["Title"] == "newer"


@pytest.mark.parametrize("operation", [Operation.CREATE, Operation.REPLACE, Operation.BATCH])
async def test_a_commit_that_comes_late_changes_nothing(
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, operation: Operation
) -> None:
    if operation is Operation.REPLACE:
        await add(store, line("l1"))
    once(faults, Hold(), operation)

    async def commit_late() -> None:
        async with unit(store) as work:
            if operation is Operation.REPLACE:
                late = await work[Line].get_by_id("l1", partition_key="a")
                assert late is not None
                await work[Line].update(late.model_copy(update={"text": "late"}))
            else:
                await work[Line].add(line("l1", text="late"))
            if operation is Operation.BATCH:
                await work[Line].add(line("l2"))
            await work.commit()

    with pytest.raises(OutcomeUnknownError):
        await commit_late()
    [held] = faults.held
    async with unit(fresh_store) as work:
        newer = await work[Line].get_by_id("l1", partition_key="a")
        if newer is None:
            await work[Line].add(line("l1", text="newer"))
        else:
            await work[Line].update(newer.model_copy(update={"text": "newer"}))
        await work.commit()
    outcome = faults.held.release(held.id)
    assert isinstance(outcome, Applied)
    assert outcome.status == {Operation.CREATE: 409, Operation.REPLACE: 412, Operation.BATCH: 207}[operation]
    [there] = await unit(fresh_store)[Line].list()
    assert there.text == "newer"


# -- behind


@pytest.mark.parametrize("newer", [0, 1])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("who", ["the same client", "a fresh one"])
async def test_a_replica_that_is_behind_makes_nobody_guilty(  # noqa: PLR0913, PLR0917 - fixtures
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, who: str, version: int, newer: int
) -> None:
    """The document is there and the replica does not show it: that it is in the way is no other one's unique key."""
    await store.existing_container(LINES)
    stay_behind(faults, 9)
    once(faults, Cut(moment="after"), Operation.CREATE)
    with pytest.raises(CosmosUnavailableError):
        await writer_on(store).write([line_state(version + newer)])
    again = writer_on(store if who == "the same client" else fresh_store)
    for _ in range(3):
        with pytest.raises(CosmosUnavailableError):  # it waits for the replica
            await again.write([line_state(version)])
    faults.remove("behind")
    [outcome] = await again.write([line_state(version)])
    assert isinstance(outcome, Superseded if newer else Unchanged)


@pytest.mark.parametrize("count", [1, 2])
async def test_what_is_added_where_a_tombstone_is_that_the_replica_does_not_show_is_no_conflict(
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, count: int
) -> None:
    await fresh_store.existing_container(LINES)
    stay_behind(faults, 9)
    entity = line("l1")
    await add(store, entity)
    async with unit(store) as work:
        await work[Line].delete(entity)
        await work.commit()
    lines = [line(f"l{n}", text="again") for n in range(1, count + 1)]
    with pytest.raises(StoreUnavailableError):
        await add(fresh_store, *lines)
    faults.remove("behind")
    await add(fresh_store, *lines)
    assert [each.text for each in await unit(store)[Line].list()] == ["again"] * count


@pytest.mark.parametrize("count", [1, 2])
async def test_a_conflict_is_followed_by_a_read_that_has_seen_what_was_in_the_way(
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, count: int
) -> None:
    """Whoever reads again and decides again gets on, and does not meet the same old state over and over."""
    await add(store, line("l1"), line("l2"))
    stay_behind(faults, 1)

    async def change(on: CosmosStore, text: str) -> None:
        async with unit(on) as work:
            lines = [await work[Line].get_by_id(f"l{n}", partition_key="a") for n in range(1, count + 1)]
            for each in lines:
                assert each is not None
                await work[Line].update(each.model_copy(update={"text": text}))
            await work.commit()

    await fresh_store.existing_container(LINES)
    faults.remove("behind")
    stay_behind(faults, 1)
    first = await unit(store)[Line].get_by_id("l1", partition_key="a")
    assert first is not None
    await change(store, "first")
    with pytest.raises(ConcurrencyError):
        await change(fresh_store, "second")
    with pytest.raises(StoreUnavailableError, match="404/1002"):
        await change(fresh_store, "second")
    faults.remove("behind")
    await change(fresh_store, "second")
    assert (await unit(store)[Line].get_by_id("l1", partition_key="a")).text == "second"  # type: ignore[union-attr]


async def test_what_is_there_already_is_found_although_no_unique_key_is_broken(store: CosmosStore) -> None:
    await add(store, line("l1"))
    with pytest.raises(AlreadyExistsError):
        await add(store, line("l1"))
