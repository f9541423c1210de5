"""What the tests of backfills share: one without rests, in small pieces, that can be stopped between two of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from core.migration.backfill import Backfill
from core.postgres.held import read_held
from outbox.publisher import Publisher

if TYPE_CHECKING:
    from core.migration.backfill_state import Counts, Target
    from core.progress import Progress
    from core.settings import Settings
    from tests.integration.mirror_steps import Steps


def backfill(steps: Steps, settings: Settings, target: Target, **values: Any) -> Backfill:
    """Return a backfill of somebody in a hurry."""
    hasty = {"backfill_page_size": 10, "backfill_ru_per_second": None, "backfill_lease_s": 5.0}
    quick = settings.model_copy(update={**hasty, **values})
    publisher = Publisher(steps.engine, steps.store, steps.mappings, quick)
    return Backfill(steps.engine, steps.store, steps.mappings, quick, publisher, target)


async def filled(steps: Steps, settings: Settings, target: Target, **values: Any) -> Counts:
    """Run a backfill to its end with the one entity type of `steps`, and return what it counted."""
    done = await backfill(steps, settings, target, **values).run(entities=[steps.mapping.name])
    assert done.finished
    return done.counts


class Pieces:
    """Stops a backfill after so many pieces; `seen` is its progress."""

    def __init__(self, pieces: int) -> None:
        self.stop = asyncio.Event()
        self.seen: list[Progress] = []
        self._pieces = pieces
        if not pieces:
            self.stop.set()

    def report(self, progress: Progress) -> None:
        self.seen.append(progress)
        if len(self.seen) >= self._pieces:
            self.stop.set()


async def rows(steps: Steps, *ids: str) -> int:
    """Return how many of these have a live row."""
    known = [steps.mapping.identity_of(id_, id_) for id_ in ids]
    async with steps.engine.connect() as connection:
        return sum(held.live_row is not None for held in await read_held(connection, steps.mapping, known))
