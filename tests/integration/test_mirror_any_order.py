"""Unique values handed around between documents end where Cosmos DB has them, in whatever order the feed is read."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase as Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.mirror_parking_steps import Town

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore

PEOPLE = 5

# Who writes which email and which badge: no store refuses two that are equal for a while.
WRITES = st.lists(
    st.tuples(st.integers(0, PEOPLE - 1), st.integers(0, PEOPLE - 1), st.one_of(st.none(), st.integers(0, PEOPLE - 1))),
    max_size=8,
)
# Places in a history whose length is not known yet: taken modulo it.
BATCHES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5), max_size=6)


@pytest.fixture
async def town(engine: AsyncEngine, cosmos: CosmosStore) -> Town:
    return await Town.founded(engine, cosmos)


@dataclass(frozen=True)
class Plan:
    """Who writes what, in which order it is read, and with whom in one batch."""

    writes: list[tuple[int, int, int | None]]
    last: list[int]
    gone: set[int]
    batches: list[list[int]]
    cuts: list[int]
    order: list[int]


PLANS = st.builds(
    Plan,
    writes=WRITES,
    last=st.permutations(range(PEOPLE)),
    gone=st.sets(st.integers(0, PEOPLE - 1), max_size=2),
    batches=BATCHES,
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    order=st.permutations(range(PEOPLE)),
)


@given(plan=PLANS)
@settings(max_examples=8, phases=[Stage.explicit, Stage.reuse, Stage.generate])
async def test_any_order_of_hand_overs_ends_with_what_cosmos_has(town: Town, plan: Plan) -> None:
    await follow(town, plan)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@given(plan=PLANS)
@settings(max_examples=60, phases=[Stage.explicit, Stage.reuse, Stage.generate])
async def test_many_orders_of_hand_overs_end_with_what_cosmos_has(town: Town, plan: Plan) -> None:
    await follow(town, plan)


async def follow(town: Town, plan: Plan) -> None:
    prefix = uuid.uuid4().hex
    ids = [f"{prefix}-{number}" for number in range(PEOPLE)]
    start = len(town.people.history)
    await town.mirrored(*[await town.person(id_, f"{id_}@0") for id_ in ids[::2]])
    for who, email, badge in plan.writes:
        mark = None if badge is None else f"{prefix}-{badge}"
        await town.person(ids[who], f"{prefix}@{email}", badge=mark)
    pets = [await town.pet(f"pet of {id_}", id_) for number, id_ in enumerate(ids) if number not in plan.gone]
    for who, email in enumerate(plan.last):
        await town.person(ids[who], f"{prefix}@{email}", badge=f"{prefix}-{PEOPLE - 1 - email}")
    for who in plan.gone:
        await town.people.delete(ids[who])
    history = town.people.history[start:]
    for batch in plan.batches:
        await town.mirrored(*[history[place % len(history)] for place in batch])
    newest = {document["id"]: document for document in history}
    current: list[Document] = [newest[ids[who]] for who in plan.order if ids[who] in newest]
    while current:
        size = plan.cuts[len(current) % len(plan.cuts)]
        await town.mirrored(*current[:size])
        current = current[size:]
        if pets:
            await town.mirrored(pets.pop(), container="Pets")
    await town.mirrored(*pets, container="Pets")
    await town.retried(eager=True)
    assert (await town.parked()).documents == 0
    assert await town.letters() == []
    expected = {ids[who]: f"{prefix}@{email}" for who, email in enumerate(plan.last) if who not in plan.gone}
    emails = await town.emails()
    assert {id_: email for id_, email in emails.items() if id_.startswith(prefix)} == expected
