"""Puts an installation into a phase without asking anything: what happens in the phase is what a test is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cosmos.watermarks import WATERMARK_TTL_S
from core.migration.announcing import announce
from core.postgres.phases import open_phase, read_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import Phase, PhaseRow


async def switch_phase(  # noqa: PLR0913 - the facts of a step
    engine: AsyncEngine, store: CosmosStore, mappings: Mappings, phase: Phase, *, who: str, why: str
) -> PhaseRow:
    """Open a neighbouring phase and announce it; nothing is drained, and nobody has to have arrived."""
    async with engine.connect() as connection:
        row = await read_phase(connection)
    if row.phase is not phase:
        row = await open_phase(engine, phase, who=who, why=why)
    await announce(engine, store, mappings, row, WATERMARK_TTL_S)
    return row
