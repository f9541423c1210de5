"""The stamps say enough of most changes; of those that they leave open, the content of the row is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.content import content_of
from core.domain.account import Account
from core.envelope import Origin, stamped
from core.phases import Phase
from core.postgres.phases import open_phase
from core.stamp import Stamp
from tests.integration.mirror_steps import Steps

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings


@pytest.fixture
async def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return Steps(engine, cosmos, mappings, mappings.of(Account))


async def test_a_state_that_was_written_twice_is_taken_and_not_applied_again(steps: Steps) -> None:
    await steps.add(Account(id="a", display_name="one"))
    assert (await steps.apply(steps.history)).applied == 1
    before = await steps.held("a")
    [first] = steps.history
    await steps.foreign({**content_of(first), "crossfeed": first["crossfeed"]})
    outcome = await steps.apply(steps.history[1:])
    assert (outcome.taken, outcome.applied, outcome.reads_by_key) == (1, 0, 0)
    after = await steps.held("a")
    assert after.stamp == before.stamp
    assert after.row is not None
    assert after.row.taken_etag == steps.history[1]["_etag"]


async def test_another_content_under_the_same_stamp_is_applied(steps: Steps) -> None:
    await steps.add(Account(id="a", display_name="one"))
    await steps.apply(steps.history)
    before = await steps.held("a")
    assert before.stamp is not None
    content = {**content_of(steps.history[0]), "DisplayName": "two"}
    await steps.foreign(stamped(content, Stamp(*before.stamp), Origin.COSMOS))
    assert (await steps.apply(steps.history[1:])).applied == 1
    assert (await steps.content("a") or {})["DisplayName"] == "two"
    after = await steps.held("a")
    assert after.stamp is not None
    assert after.stamp > before.stamp
