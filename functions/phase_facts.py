"""How the phase stands and how it came to be, as JSON: the same facts for the command line, HTTP and readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.postgres.phases import read_phase
from core.postgres.switch_record import SwitchStep, pending_switch, switch_history
from core.postgres.writers import unexpired_writers

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.postgres.switch_record import Switch


async def read_standing(connection: AsyncConnection) -> dict[str, Any]:
    """Return phase, epoch, state and primary, the switch that is under way (or None), and who may write to Cosmos DB.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    row = await read_phase(connection)
    pending = await pending_switch(connection)
    writers = await unexpired_writers(connection)
    return {
        "phase": row.phase.label,
        "epoch": row.epoch,
        "state": row.state.value,
        "primary": row.primary.value,
        "switch": None if pending is None else facts_of(pending),
        "writers": [{"name": writer.name, "left_s": round(writer.left_s, 1)} for writer in writers],
        "problems": _problems(pending),
    }


def facts_of(switch: Switch) -> dict[str, Any]:
    """Return a switch as JSON values, without its report."""
    return {
        "switch": str(switch.id),
        "from": switch.from_phase.label,
        "to": switch.to_phase.label,
        "step": switch.step.value,
        "who": switch.who,
        "why": switch.why,
        "started_at": switch.started_at.isoformat(),
    }


async def read_problems(connection: AsyncConnection) -> list[str]:
    """Say what a switch that is under way, or crashed, keeps from working; nothing while there is none.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    return _problems(await pending_switch(connection))


def _problems(pending: Switch | None) -> list[str]:
    if pending is None:
        return []
    step = f"switch {pending.id} from {pending.from_phase.label} to {pending.to_phase.label}"
    if pending.step is SwitchStep.DRAINING:
        since = pending.drained_at.isoformat(timespec="seconds")
        cure = "if its process is gone: crossfeed phase resume, or crossfeed phase cancel"
        return [f"writers are refused since {since}: {step} is draining them; {cure}"]
    return [f"{step} has moved the primary and is not finished; if its process is gone: crossfeed phase resume"]


async def read_history(connection: AsyncConnection, limit: int) -> list[dict[str, Any]]:
    """Return the newest steps, each with its report if it was a switch.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    return [
        {
            "at": step.at.isoformat(timespec="milliseconds"),
            "phase": step.phase.label,
            "epoch": step.epoch,
            "who": step.who,
            "why": step.why,
            "switch": None if step.switch is None else {**facts_of(step.switch), "report": step.switch.report},
        }
        for step in await switch_history(connection, limit)
    ]
