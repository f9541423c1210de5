"""Says how far the live way behind which a backfill runs has fallen back, so that the backfill can let it pass."""

from __future__ import annotations

import random
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from core.cosmos.feed import FeedRange, pages
from core.migration.backfill_state import Target
from core.phases import Phase
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.phases import PhaseRow

PROBED: Final = 4
"""How many feed ranges of a container are looked at, at most; others the next time."""

_UNSENT = """
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(oldest)), 0)::float8
    FROM crossfeed.unsent(1) WHERE carries = 'states'
"""
_UNSEEN = """
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(unseen_since)), 0)::float8
    FROM crossfeed.canary WHERE direction = 'to_postgres' AND container = %(container)s
"""
_PLACES = """
    SELECT lower_bound, upper_bound, continuation FROM crossfeed.feed_range
    WHERE feed = 'mirror/' || %(container)s AND continuation IS NOT NULL
"""


class LiveLag:
    """Looks at relay and mirror from outside, by what they have left.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        clock: seconds since 1970.

    """

    def __init__(self, engine: AsyncEngine, store: CosmosStore, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock

    async def seconds(self, target: Target, source: str, phase: PhaseRow) -> float:
        """Return the age of the oldest change that is still to be carried to the target, 0 where nothing carries any.

        Args:
            target: the store that is filled.
            source: the container that it is filled from, where it is one.
            phase: the recorded phase.

        Raises:
            StoreUnavailableError: a store did not answer.

        """
        match target, phase.phase:
            case Target.COSMOS, Phase.DUAL_WRITE_POSTGRES_READ:
                return await self._unsent()
            case Target.POSTGRES, Phase.DUAL_WRITE_COSMOS_READ:
                return await self._unmirrored(source)
            case _:
                return 0.0

    async def _unsent(self) -> float:
        with translated("reading what is unsent"):
            async with self._engine.connect() as connection:
                age: float = (await connection.exec_driver_sql(_UNSENT)).scalar_one()
        return age

    async def _unmirrored(self, container: str) -> float:
        """Read one change behind the checkpoints of the mirror; triggers have none here, but canaries."""
        with translated("reading where the mirror is"):
            async with self._engine.connect() as connection:
                asked = {"container": container}
                unseen: float = (await connection.exec_driver_sql(_UNSEEN, asked)).scalar_one()
                found = [tuple(row) for row in await connection.exec_driver_sql(_PLACES, asked)]
        ages = [unseen]
        for lower, upper, continuation in random.sample(found, min(PROBED, len(found))):
            proxy = self._store.container_named(container)
            async with aclosing(pages(proxy, FeedRange.between(lower, upper), continuation, 1)) as source:
                page = await anext(source)
            ages += [self._clock() - int(document["_ts"]) for document in page.documents[:1]]
        return max(0.0, *ages)
