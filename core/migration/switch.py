"""Steps to a neighbouring phase where nobody is writing to Cosmos DB: a new epoch, then its watermarks in every feed.

The epoch is also written into the charter, so that a Postgres restored to before the step is told from the one after.

Nothing fences writers of Cosmos DB here: the caller answers for there being none. (Writers of Postgres are fenced by
the database: those in flight are waited for, later ones are refused.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from core.cosmos.markers import Markers
from core.cosmos.watermarks import WATERMARK_TTL_S, write_watermarks
from core.postgres.failures import translated
from core.postgres.phases import open_phase, read_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import Phase, PhaseRow

log = structlog.get_logger()

_INSTANCE = "SELECT instance::text FROM crossfeed.lineage"


async def switch_phase(  # noqa: PLR0913 - the facts of a step
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    phase: Phase,
    *,
    who: str,
    why: str,
    watermark_ttl_s: int = WATERMARK_TTL_S,
) -> PhaseRow:
    """Open a phase and write the watermark that opens its epoch into every feed range of every mapped container.

    A step that failed between the two is completed by asking for the same phase again: nothing is opened, the
    watermarks of the recorded epoch are written once more.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        phase: the phase to open; a neighbour of the recorded one, or any while no step was ever made.
        who: the operator, for the history.
        why: the reason, for the history.
        watermark_ttl_s: how long the watermarks live, in seconds.

    Returns:
        The phase row as it is now.

    Raises:
        ConflictError: the phase is not a neighbour, or a switch is under way; nothing was changed.
        TransientError: Postgres did not answer, or Cosmos DB after the phase was opened; ask again.
        OutcomeUnknownError: a watermark was not answered; ask again.

    """
    with translated(f"opening phase {phase.label}"):
        async with engine.connect() as connection:
            row = await read_phase(connection)
        if row.phase is not phase:
            row = await open_phase(engine, phase, who=who, why=why)
            log.info("phase.opened", phase=phase.label, epoch=row.epoch)
    with translated("reading the lineage"):
        async with engine.connect() as connection:
            instance = (await connection.exec_driver_sql(_INSTANCE)).scalar_one()
    await Markers(store, store.own.control.name, instance).raise_epoch(row.epoch)
    for container in mappings.containers:
        any_mapping = mappings.in_container(container)[0]
        written = await write_watermarks(store, any_mapping, row.epoch, watermark_ttl_s)
        log.info("phase.watermarks_written", container=container, epoch=row.epoch, feed_ranges=len(written))
    return row
