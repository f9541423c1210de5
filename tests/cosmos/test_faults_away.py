"""While Cosmos DB is out of reach, reads are repeated and what could not be had is reported."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from core.cosmos import querying
from core.cosmos.client import open_cosmos
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import Unchanged, Written
from core.errors import OutcomeUnknownError, StoreUnavailableError
from core.local.cosmos.faults import (
    Constant,
    Cut,
    Delay,
    Down,
    Match,
    Operation,
    Refuse,
    Rule,
)
from core.query import Query
from tests.cosmos.example import MAPPINGS, NOTES, Line, Note, settings_for
from tests.cosmos.guarded_steps import state, writer_on
from tests.cosmos.steps import READING, Seen, add, get, line, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.local.cosmos.faults import Action, Faults
    from core.local.cosmos.server import CosmosServer


@pytest.mark.parametrize(
    "fault",
    [Refuse(status=503), Cut(), Cut(moment="middle")],
    ids=lambda fault: f"{fault.kind} {getattr(fault, 'status', fault.moment)}",
)
async def test_reads_are_repeated_and_show_each_entity_once(
    faults: Faults, store: CosmosStore, fault: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query of several pages fails on its second page: what came before is not shown twice."""
    monkeypatch.setattr(querying, "PAGE_SIZE", 5)
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
    monkeypatch.setattr(querying, "PAGE_SIZE", 5)
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
                [outcomes[n]] = await writer_on(store).write([state(1, 1, id_=f"n{n}")])
            except CosmosUnavailableError:
                with pytest.raises(OutcomeUnknownError):
                    await add(store, Note(id=f"n{n}"))
                continue
            assert await get(store, f"n{n}") is not None
        assert 0 < len(outcomes) < 20
        assert all(isinstance(outcome, Written) for outcome in outcomes.values())
        faults.clear()
        for n in range(20):
            [outcome] = await writer_on(store).write([state(1, 1, id_=f"n{n}")])
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
