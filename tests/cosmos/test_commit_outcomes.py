"""A commit is known to have happened, known not to have happened, or reported as unknown; it is never sent twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.entity import loaded
from core.errors import OutcomeUnknownError, StoreUnavailableError
from tests.cosmos.example import NOTES, Note
from tests.cosmos.meddler import Answer, Cut, Meddler
from tests.cosmos.steps import add, get, line, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.entity import Entity


@pytest.mark.parametrize("verb", ["add", "update", "batch"])
async def test_a_commit_whose_answer_was_lost_is_unknown_and_is_not_sent_twice(
    meddler: Meddler, meddled_store: CosmosStore, store: CosmosStore, verb: str
) -> None:
    entities: list[Entity] = [line("l1"), line("l2")] if verb == "batch" else [Note(id="n1")]
    if verb == "update":
        await add(meddled_store, *entities)
    wire = b"PUT" if verb == "update" else b"POST"
    meddler.plans += [Cut(wire)]
    meddler.seen.clear()
    async with unit(meddled_store) as work:
        for entity in entities:
            await (work[type(entity)].update if verb == "update" else work[type(entity)].add)(entity)
        before = [loaded(entity) for entity in entities]
        with pytest.raises(OutcomeUnknownError):
            await work.commit()
        assert [loaded(entity) for entity in entities] == before
        await work.commit()  # the unit is empty: nothing is repeated
    assert meddler.seen.count(wire) == 1
    assert len(await unit(store)[type(entities[0])].list()) == len(entities)  # it had been carried out


@pytest.mark.parametrize("status", [408, 500, 502, 503])
async def test_an_answer_that_leaves_the_outcome_open_is_unknown(
    meddler: Meddler, meddled_store: CosmosStore, status: int
) -> None:
    meddler.plans += [Answer(b"POST", status)]
    with pytest.raises(OutcomeUnknownError):
        await add(meddled_store, Note(id="n1"))
    assert meddler.seen.count(b"POST") == 1


async def test_a_commit_that_could_not_be_sent_is_certain_not_to_have_happened(
    meddler: Meddler, meddled_store: CosmosStore, store: CosmosStore
) -> None:
    await add(meddled_store, Note(id="n0"))
    await meddler.stop()
    with pytest.raises(StoreUnavailableError):
        await add(meddled_store, Note(id="n1"))
    assert await get(store) is None


async def test_a_throttled_commit_waits_as_asked_and_goes_through(
    meddler: Meddler, meddled_store: CosmosStore, store: CosmosStore
) -> None:
    meddler.plans += [Answer(b"POST", 429, {"x-ms-retry-after-ms": "20"})] * 3
    await add(meddled_store, Note(id="n1"))
    assert meddler.seen.count(b"POST") == 4
    assert await get(store) is not None


async def test_a_read_whose_connection_was_cut_is_repeated(
    meddler: Meddler, meddled_store: CosmosStore, store: CosmosStore
) -> None:
    await add(store, Note(id="n1"))
    await meddled_store.existing_container(NOTES)
    meddler.plans += [Cut(b"GET")]
    assert await get(meddled_store) is not None
