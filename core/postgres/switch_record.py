"""What Postgres has on record of switches of the primary."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from core.errors import ConflictError
from core.phases import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection


class SwitchStep(StrEnum):
    """How far a switch is."""

    DRAINING = "draining"
    OPENED = "opened"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Switch:
    """One move of the primary, as it is recorded."""

    id: UUID
    from_phase: Phase
    to_phase: Phase
    from_epoch: int
    opened_epoch: int | None
    step: SwitchStep
    who: str
    why: str
    started_at: datetime
    drained_at: datetime
    flipped_at: datetime | None
    ended_at: datetime | None
    facts: dict[str, Any]
    report: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the history: an epoch that was opened, or a switch that has opened none."""

    at: datetime
    phase: Phase
    """The phase that was opened; of a switch that was cancelled or is draining, the one it began in."""
    epoch: int
    who: str
    why: str
    switch: Switch | None
    """None where nobody was drained."""


_COLUMNS = """s.id, s.from_phase, s.to_phase, s.from_epoch, s.opened_epoch, s.step, s.by_whom, s.why, s.started_at,
    s.drained_at, s.flipped_at, s.ended_at, s.facts, s.report"""
_READ = f"SELECT {_COLUMNS} FROM crossfeed.switch s"
_ONE = text(f"{_READ} WHERE s.id = :id")
_PENDING = text(f"{_READ} WHERE s.step IN ('draining', 'opened')")
_HISTORY = text(f"""
    SELECT coalesce(h.at, s.started_at), coalesce(h.phase, s.from_phase), coalesce(h.epoch, s.from_epoch),
        coalesce(h.by_whom, s.by_whom), coalesce(h.why, s.why), {_COLUMNS}
    FROM crossfeed.phase_history h FULL JOIN crossfeed.switch s ON s.id = h.switch_id
    ORDER BY 1 DESC, 3 DESC LIMIT :most
""")


async def read_switch(connection: AsyncConnection, switch_id: UUID) -> Switch | None:
    """Return the switch with this id, if there is one."""
    row = (await connection.execute(_ONE, {"id": switch_id})).one_or_none()
    return None if row is None else _switch(tuple(row))


async def pending_switch(connection: AsyncConnection) -> Switch | None:
    """Return the switch that is draining or opened; there is one at most."""
    row = (await connection.execute(_PENDING)).one_or_none()
    return None if row is None else _switch(tuple(row))


async def switch_history(connection: AsyncConnection, limit: int) -> list[Step]:
    """Return the last steps between phases, and the switches that came to nothing, the newest first."""
    found = [tuple(row) for row in await connection.execute(_HISTORY, {"most": limit})]
    return [
        Step(at, Phase(phase), epoch, who, why, None if switch[0] is None else _switch(switch))
        for at, phase, epoch, who, why, *switch in found
    ]


async def require_switch(connection: AsyncConnection, switch_id: UUID, *steps: SwitchStep) -> Switch:
    """Return the switch if it has come to one of these steps.

    Raises:
        ConflictError: it has not, or is not on record.

    """
    switch = await read_switch(connection, switch_id)
    if switch is None or switch.step not in steps:
        now = "not on record" if switch is None else switch.step
        msg = f"switch {switch_id} is not {' or '.join(steps)}; it is {now}"
        raise ConflictError(msg)
    return switch


def _switch(row: Sequence[Any]) -> Switch:
    switch_id, from_phase, to_phase, from_epoch, opened_epoch, step, *rest = row
    return Switch(switch_id, Phase(from_phase), Phase(to_phase), from_epoch, opened_epoch, SwitchStep(step), *rest)
