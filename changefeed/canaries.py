"""Writes the canaries of feed ranges (core.postgres.canaries): each is to come out of the feed of its range again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from core.cosmos.canaries import write_canaries
from core.errors import CrossfeedError
from core.postgres.canaries import clock_and_epoch, containers_due, forget, record_written
from core.postgres.dead_letters import Direction
from core.waiting import pause

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.feed_leases import FeedLeases
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often it is looked whether one is due, in seconds, at most."""
HOLD_S: Final = 300.0
"""For how long a canary that has not come out is not written again, in seconds, at least."""
FORGET_S: Final = 60.0
"""How often those are forgotten that others have left, where canaries are switched off, in seconds."""


async def write_feed_canaries(
    engine: AsyncEngine, store: CosmosStore, mappings: Mappings, container: str, held: Collection[str] = ()
) -> None:
    """Write the canary of every feed range of a container, but those that are held, and record them.

    Raises:
        StoreUnavailableError: a store did not answer; some may have been written.
        OutcomeUnknownError: Cosmos DB did not answer; some may have been written.

    """
    carried = await clock_and_epoch(engine)
    found = await write_canaries(store, mappings.in_container(container)[0], carried, held=held)
    etags = {mark.id: mark.etag for mark in found.values()}
    await record_written(engine, container, mappings.containers, carried, etags)


@dataclass(frozen=True, slots=True)
class FeedCanaries:
    """The canaries of the containers of which a processor holds the first range: of each container one holds it.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        leases: the processor's.
        every_s: seconds between two; 0: none are written, and those that there are are forgotten.
        hold_s: for how long one that has not come out is not written again, in seconds; a lag beyond it hides all.

    """

    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    leases: FeedLeases
    every_s: float
    hold_s: float = HOLD_S

    async def run(self, stop: asyncio.Event) -> None:
        """Write them until `stop` is set; whatever fails is logged, and tried again."""
        while not stop.is_set():
            try:
                await (self.write() if self.every_s else forget(self.engine, Direction.TO_POSTGRES))
            except CrossfeedError as error:
                log.warning("canary.not_written", reason=str(error))
            except Exception as error:  # noqa: BLE001 - it must go on, whatever one attempt met
                log.error("canary.not_written", error=type(error).__name__)  # noqa: TRY400 - may quote values
            await pause(min(LOOK_S, self.every_s / 4) if self.every_s else FORGET_S, stop)

    async def write(self) -> None:
        """Write those that are due.

        Raises:
            CrossfeedError: a store did not take those of a container; those of the others are written.

        """
        mine = [name for name in self.mappings.containers if self._is_mine(name)] if self.leases.left_s > 0 else []
        due = await containers_due(self.engine, mine, self.every_s, self.hold_s) if mine else {}
        failed: list[CrossfeedError] = []
        for container, held in due.items():
            try:
                await write_feed_canaries(self.engine, self.store, self.mappings, container, held)
            except CrossfeedError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _is_mine(self, container: str) -> bool:
        return any(lease.feed == f"mirror/{container}" and not lease.range.lower for lease in self.leases.held)
