"""The step between phases where nobody writes to Cosmos DB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from core.errors import ConflictError, StoreUnavailableError
from core.migration.switch import switch_phase
from core.phases import Phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings


async def watermarks(cosmos: CosmosStore, mappings: Mappings) -> dict[str, list[int]]:
    query = "SELECT * FROM c WHERE c.crossfeed.kind = 'watermark'"
    return {
        mapping.container: sorted(
            [item["crossfeed"]["epoch"] async for item in cosmos.container(mapping).query_items(query)]
        )
        for mapping in mappings
    }


async def step(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, phase: Phase) -> int:
    return (await switch_phase(engine, cosmos, mappings, phase, who="me", why="a test")).epoch


async def test_each_step_raises_the_epoch_and_marks_every_feed_range(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    assert await step(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ) == 2
    assert await step(engine, cosmos, mappings, Phase.DUAL_WRITE_POSTGRES_READ) == 3
    assert await watermarks(cosmos, mappings) == {mapping.container: [2, 3] for mapping in mappings}
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT epoch, by_whom, why FROM crossfeed.phase_history ORDER BY epoch"))
        assert [tuple(row) for row in found][1:] == [(2, "me", "a test"), (3, "me", "a test")]


async def test_only_a_neighbour_can_be_opened(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> None:
    await step(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ)
    with pytest.raises(ConflictError, match="not a neighbour"):
        await step(engine, cosmos, mappings, Phase.POSTGRES_ONLY)


async def test_a_step_whose_watermarks_failed_is_completed_by_asking_again(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        msg = "no answer"
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patched:
        patched.setattr("core.migration.switch.write_watermarks", fail)
        with pytest.raises(StoreUnavailableError):
            await step(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ)
    assert await watermarks(cosmos, mappings) == {mapping.container: [] for mapping in mappings}
    assert await step(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ) == 2
    assert await watermarks(cosmos, mappings) == {mapping.container: [2] for mapping in mappings}
