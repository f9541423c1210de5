"""Lets Cosmos DB know of an epoch that was opened in Postgres, after every step between phases.

The charter tells a Postgres restored to before the step from the one after it; a watermark in every feed range opens
the epoch for whoever reads the feed; and a note, last, tells processes that run without Postgres. All of it may be
repeated, also by a process that slept through later steps: none of it goes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from core.cosmos.markers import Markers
from core.cosmos.noted_phase import note_phase, noted_epoch
from core.cosmos.watermarks import write_watermarks
from core.postgres.failures import translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import PhaseRow

log = structlog.get_logger()

_INSTANCE = "SELECT instance::text FROM crossfeed.lineage"


async def announce(engine: AsyncEngine, store: CosmosStore, mappings: Mappings, row: PhaseRow, ttl_s: int) -> None:
    """Let Cosmos DB know of an epoch that was opened.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        row: as it was opened.
        ttl_s: how long the watermarks live, in seconds.

    Raises:
        TransientError: a store did not answer; repeat.
        OutcomeUnknownError: a watermark was not answered; repeat.

    """
    instance = await _instance(engine)
    await Markers(store, store.own.control.name, instance).raise_epoch(row.epoch)
    for container in mappings.containers:
        written = await write_watermarks(store, mappings.in_container(container)[0], row.epoch, ttl_s)
        log.info("phase.watermarks_written", container=container, epoch=row.epoch, feed_ranges=len(written))
    await note_phase(store, instance, row)


async def is_announced(engine: AsyncEngine, store: CosmosStore, row: PhaseRow) -> bool:
    """Whether `announce` has come to its end for this epoch, or for a later one.

    Raises:
        TransientError: a store did not answer.

    """
    return await noted_epoch(store, await _instance(engine)) >= row.epoch


async def _instance(engine: AsyncEngine) -> str:
    with translated("reading the lineage"):
        async with engine.connect() as connection:
            instance: str = (await connection.exec_driver_sql(_INSTANCE)).scalar_one()
    return instance
