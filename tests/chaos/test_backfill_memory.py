"""A backfill takes the memory of a page, however much there is to fill."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from core.domain.mappings import ACCOUNTS
from core.migration.backfill_state import Target
from core.phases import Phase
from core.postgres.phases import open_phase
from outbox import publisher
from tests.integration.backfill_steps import backfill
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.progress import Progress
    from core.settings import Settings

FEW, MANY = 400, 2400
PAGE = 100


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_six_times_as_many_rows_and_documents_take_no_more_memory(
    engine: AsyncEngine,
    cosmos: CosmosStore,
    mappings: Mappings,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "REMEMBERED", PAGE)  # what it remembers at most is the same for any number
    steps = Steps(engine, cosmos, mappings, ACCOUNTS)
    await make_primary(engine)
    peaks: dict[tuple[Target, int], int] = {}
    for number in (FEW, MANY):
        await run(
            engine,
            "INSERT INTO accounts (id, email)"
            f" SELECT 'a' || n, repeat('x', 2000) FROM generate_series(1, {number}) AS n ON CONFLICT DO NOTHING",
            "UPDATE crossfeed.slot SET seen = pg_current_snapshot()",
        )
        peaks[Target.COSMOS, number] = await peak(steps, settings, Target.COSMOS, number)
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    for number in (FEW, MANY):
        peaks[Target.POSTGRES, number] = await peak(steps, settings, Target.POSTGRES, MANY)
    print({f"{target.value} {number}": f"{size / 2**20:.1f} MiB" for (target, number), size in peaks.items()})
    assert peaks[Target.COSMOS, MANY] < 1.5 * peaks[Target.COSMOS, FEW]
    assert peaks[Target.POSTGRES, MANY] < 1.5 * peaks[Target.POSTGRES, FEW]


async def peak(steps: Steps, settings: Settings, target: Target, number: int) -> int:
    """Return the most that a backfill held at once, in bytes."""
    tracemalloc.start(1)
    try:
        # What is garbage goes after each piece: how much of it waits says nothing.
        done = await backfill(steps, settings, target, backfill_page_size=PAGE).run(_collect, entities=["Account"])
        assert done.counts.read == number
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _collect(_: Progress) -> None:
    gc.collect()
