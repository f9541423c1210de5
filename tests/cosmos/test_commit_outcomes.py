"""A commit is known to have happened, known not to have happened, or reported as unknown; it is never sent twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.entity import loaded
from core.errors import OutcomeUnknownError, StoreUnavailableError
from core.local.cosmos.faults import Cut, Operation, Refuse
from core.local.cosmos.server import CosmosServer
from tests.cosmos.example import MAPPINGS, NOTES, Note, settings_for
from tests.cosmos.steps import Seen, add, get, line, once, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.entity import Entity
    from core.local.cosmos.faults import Action, Faults

LOST = {
    "cut after it": Cut(moment="after"),
    "cut in the middle of the answer": Cut(moment="middle"),
    **{f"{status} after it": Refuse(status=status, moment="after") for status in (408, 503)},
}
"""What hides the answer to a write that was carried out."""
OPEN = {
    "cut before it": Cut(),
    **{str(status): Refuse(status=status) for status in (408, 500, 502, 503)},
}
"""What looks to the client as if the write might have been carried out."""


@pytest.mark.parametrize("fault", LOST.values(), ids=LOST.keys())
@pytest.mark.parametrize("operation", [Operation.CREATE, Operation.REPLACE, Operation.BATCH])
async def test_a_commit_whose_answer_was_lost_is_unknown_and_is_not_sent_twice(  # noqa: PLR0913, PLR0917 - fixtures
    faults: Faults, seen: Seen, fresh_store: CosmosStore, store: CosmosStore, operation: Operation, fault: Action
) -> None:
    is_update = operation is Operation.REPLACE
    entities: list[Entity] = [line("l1"), line("l2")] if operation is Operation.BATCH else [Note(id="n1")]
    if is_update:
        await add(fresh_store, *entities)
    once(faults, fault, operation)
    seen.forget()
    async with unit(fresh_store) as work:
        for entity in entities:
            await (work[type(entity)].update if is_update else work[type(entity)].add)(entity)
        before = [loaded(entity) for entity in entities]
        with pytest.raises(OutcomeUnknownError):
            await work.commit()
        assert [loaded(entity) for entity in entities] == before
        await work.commit()  # the unit is empty: nothing is repeated
    assert seen.operations.count(operation) == 1
    there = await unit(store)[type(entities[0])].list()
    assert len(there) == len(entities)  # it had been carried out
    for entity in there:
        state = loaded(entity)
        assert state is not None
        assert state.stamp.version == 1 + is_update


@pytest.mark.parametrize("fault", OPEN.values(), ids=OPEN.keys())
async def test_an_answer_that_leaves_the_outcome_open_is_unknown(
    faults: Faults, seen: Seen, fresh_store: CosmosStore, store: CosmosStore, fault: Action
) -> None:
    once(faults, fault, Operation.CREATE)
    with pytest.raises(OutcomeUnknownError):
        await add(fresh_store, Note(id="n1"))
    assert seen.operations.count(Operation.CREATE) == 1
    assert await get(store) is None


async def test_a_commit_that_could_not_be_sent_is_certain_not_to_have_happened() -> None:
    async with CosmosServer() as server, open_cosmos(settings_for(server)) as store:
        await store.provision(MAPPINGS)
        await add(store, Note(id="n0"))
        await server.stop()
        with pytest.raises(StoreUnavailableError):
            await add(store, Note(id="n1"))
        await server.start()
        assert await get(store, "n0") is not None
        assert await get(store) is None


async def test_a_throttled_commit_waits_as_asked_and_goes_through(
    faults: Faults, seen: Seen, fresh_store: CosmosStore, store: CosmosStore
) -> None:
    once(faults, Refuse(status=429, retry_after_ms=20), Operation.CREATE, times=3)
    await add(fresh_store, Note(id="n1"))
    assert seen.operations.count(Operation.CREATE) == 4
    assert await get(store) is not None


@pytest.mark.parametrize("moment", ["before", "after", "middle"])
async def test_a_read_whose_connection_was_cut_is_repeated(
    faults: Faults, seen: Seen, fresh_store: CosmosStore, store: CosmosStore, moment: str
) -> None:
    await add(store, Note(id="n1"))
    await fresh_store.existing_container(NOTES)
    once(faults, Cut.model_validate({"moment": moment}), Operation.READ)
    assert await get(fresh_store) is not None
    assert seen.operations.count(Operation.READ) == 2
