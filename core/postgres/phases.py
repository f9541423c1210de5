"""Reads and moves the one phase row; moving it goes through the database's own function that raises epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from core.errors import ConflictError
from core.phases import Phase, PhaseRow, PhaseState

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_READ = text("SELECT phase, epoch, state FROM crossfeed.phase")
_STEPS = text("SELECT count(*) FROM crossfeed.phase_history")
_OPEN = text("SELECT crossfeed.open_epoch(CAST(:phase AS smallint), :who, :why)")


async def read_phase(connection: AsyncConnection) -> PhaseRow:
    """Return phase, epoch and state as this transaction sees them."""
    phase, epoch, state = (await connection.execute(_READ)).one()
    return PhaseRow(Phase(phase), epoch, PhaseState(state))


async def open_phase(engine: AsyncEngine, phase: Phase, *, who: str, why: str) -> PhaseRow:
    """Step to a neighbouring phase in one transaction, without draining: nobody may be writing to Cosmos DB.

    Locks every captured table until writers in flight have ended, re-creates the triggers with the new epoch,
    opens or closes the fence, and records the step.

    Args:
        engine: the engine.
        phase: the phase to open; a neighbour of the recorded one, or any while no step was ever made.
        who: the operator, for the history.
        why: the reason, for the history.

    Raises:
        ConflictError: the phase is not a neighbour, or a switch is under way.

    """
    async with engine.begin() as connection:
        # Takes the row first: two steps at once go one after the other, each from what the other left.
        await connection.execute(text("SELECT FROM crossfeed.phase FOR UPDATE"))
        current = await read_phase(connection)
        steps = (await connection.execute(_STEPS)).scalar_one()
        if current.state is not PhaseState.STEADY:
            msg = f"a switch is under way in phase {current.phase.label}"
            raise ConflictError(msg)
        if steps > 1 and abs(phase - current.phase) != 1:
            msg = f"{phase.label} is not a neighbour of the recorded phase {current.phase.label}; step through"
            raise ConflictError(msg)
        epoch = (await connection.execute(_OPEN, {"phase": int(phase), "who": who, "why": why})).scalar_one()
    return PhaseRow(phase, epoch, PhaseState.STEADY)
