"""Pieces of reconcile passes between foreign writes, hard deletes, re-creations and batches of the mirror."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.domain.mappings import ACCOUNTS
from core.envelope import is_deleted
from tests.integration.mirror_steps import Steps, same
from tests.integration.reconcile_steps import AfterOnePiece, hard_delete, legacy, reconcile
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

_numbers = itertools.count()

ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["write", "delete", "bury"]), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["mirror", "late"]), st.integers(1, 4)),
        st.tuples(st.just("piece"), st.integers(1, 3)),
    ),
    max_size=24,
)


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


async def equal(steps: Steps, ids: dict[str, str]) -> None:
    for id_ in ids.values():
        document = await steps.current(id_)
        shown = None if document is None or is_deleted(document) else document
        assert same(await steps.content(id_), shown), id_


async def act(steps: Steps, settings: Settings, what: str, subject: str | int, mirrored: int) -> int:
    """Do one thing to an id, or so many times; return how much of the feed's history was mirrored by then."""
    id_ = subject if isinstance(subject, str) else ""
    count = subject if isinstance(subject, int) else 0
    match what:
        case "write":
            await steps.foreign(legacy(id_, DisplayName=str(next(_numbers))))
        case "delete" if await steps.current(id_) is not None:
            await hard_delete(steps, id_)
        case "bury":
            await steps.delete(id_)
        case "mirror":
            await steps.apply(steps.history[mirrored : mirrored + count])
            return min(mirrored + count, len(steps.history))
        case "late":
            await steps.apply(steps.history[max(0, mirrored - 2 * count) : mirrored])
        case "piece":
            for _ in range(count):
                one = reconcile(steps, settings, reconcile_page_size=2, reconcile_max_removed_share=1.0)
                await one.run(stop=AfterOnePiece(), containers=["Accounts"])
        case _:
            pass
    return mirrored


@hypothesis_settings(max_examples=5)
@given(acts=ACTS, switches=st.booleans())
async def test_however_they_interleave_both_stores_end_equal(
    steps: Steps, settings: Settings, acts: list[tuple[str, str | int]], switches: bool
) -> None:
    await interleaved(steps, settings, acts, switches=switches)


@pytest.mark.chaos  # the same for longer
@hypothesis_settings(max_examples=100)
@given(acts=ACTS, switches=st.booleans())
async def test_however_often_they_interleave_both_stores_end_equal(
    steps: Steps, settings: Settings, acts: list[tuple[str, str | int]], switches: bool
) -> None:
    await interleaved(steps, settings, acts, switches=switches)


async def interleaved(steps: Steps, settings: Settings, acts: list[tuple[str, str | int]], *, switches: bool) -> None:
    example = next(_numbers)
    ids = {letter: f"{letter}-{example}" for letter in "abc"}
    steps.history.clear()
    mirrored = 0
    for number, (what, subject) in enumerate(acts):
        mirrored = await act(steps, settings, what, ids.get(str(subject), subject), mirrored)
        if switches and number == len(acts) // 2:
            # An epoch later: passes under way are begun anew, and what was taken says nothing any more.
            await run(steps.engine, "SELECT crossfeed.open_epoch(0::smallint, 'test', 'test')")
    late: list[Document] = list(steps.history)
    await steps.apply(steps.history[mirrored:])
    for _ in range(2):
        await reconcile(steps, settings, reconcile_max_removed_share=1.0).run(containers=["Accounts"])
    await equal(steps, ids)
    # Nothing that comes late, in whatever batches, changes it.
    for start in range(0, len(late), 2):
        await steps.apply(late[start : start + 2])
    await equal(steps, ids)
    counts = await reconcile(steps, settings).run(containers=["Accounts"])
    assert (counts.containers[0].counts.applied, counts.containers[0].counts.doubted) == (0, 0)
