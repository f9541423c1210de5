"""The way that the demo goes through the phases, and how it steps."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from core.errors import ConflictError
from core.migration.report import Outcome, StepOptions
from core.phases import Phase

if TYPE_CHECKING:
    from core.migration.report import Report
    from core.migration.switch import Migration

PATIENCE_S: Final = 20.0
"""How long a step that was refused is tried again, in seconds."""

THERE: Final = (
    Phase.DUAL_WRITE_COSMOS_READ,
    Phase.DUAL_WRITE_POSTGRES_READ,
    Phase.POSTGRES_ONLY,
    Phase.DUAL_WRITE_POSTGRES_READ,
)
BACK: Final = (Phase.DUAL_WRITE_COSMOS_READ, Phase.COSMOS_ONLY)
OPTIONS: Final = StepOptions(
    timeout_s=60.0,
    pause_budget_s=20.0,
    writers_restarted=True,  # these have known Postgres from the beginning
    foreign_quiet_s=0.0,  # the load has ended
    settle_s=2.0,
)


async def step(migration: Migration, to: Phase) -> Report:
    """Step to a phase; what refuses it may pass, on a machine that is busy for example.

    Raises:
        ConflictError: it was not done.

    """
    until = time.monotonic() + PATIENCE_S
    while True:
        report = await migration.step(to, who="crossfeed demo", why="the walk", options=OPTIONS)
        if report.is_done:
            return report
        if time.monotonic() > until or report.outcome not in {Outcome.REFUSED, Outcome.CANCELLED}:
            refused = "; ".join(f"{check.name}: {check.detail}" for check in report.refused_by)
            msg = f"the step to {report.to_phase.label} was {report.outcome}: {refused}"
            raise ConflictError(msg)
        await asyncio.sleep(0.5)


def said_of(report: Report) -> str:
    """Return what a step has to say to people."""
    return "" if report.pause_ms is None else f", writers waited {report.pause_ms:.0f} ms"
