"""The front door of every step between phases: plans it, makes it, goes on with one that crashed, or cancels it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from core.errors import ConflictError
from core.migration.announcing import is_announced
from core.migration.checks import REOPENING_COSMOS, TO_COSMOS, TO_POSTGRES, Check
from core.migration.course import Course, Parts
from core.migration.drained import begin, go_on
from core.migration.ending import announced
from core.migration.preflight import preflight
from core.migration.report import OPTIONS, Outcome, Plan, Report
from core.migration.steps import step_without_drain
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from core.postgres.switch_record import SwitchStep, pending_switch
from core.postgres.switching import cancel_switch

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.migration.parity import Parity
    from core.migration.ports import Ports
    from core.migration.report import StepOptions
    from core.phases import Phase, PhaseRow
    from core.postgres.switch_record import Switch
    from core.progress import Progress
    from core.settings import Settings

log = structlog.get_logger()

_NOW = "SELECT clock_timestamp()"
_UNKNOWN = "SELECT entity FROM crossfeed.captured WHERE entity <> ALL (%(known)s) ORDER BY 1"

_DOES: Final[dict[tuple[Phase, Phase], tuple[str, ...]]] = {
    TO_POSTGRES: (
        "drain: no phase lease is renewed, and every writer of Cosmos DB ends",
        "barrier: a watermark in every feed range comes out of the mirror, and nothing is parked",
        "verify: what was changed since the stores were compared, and the counts",
        "flip: Postgres takes writes, in a new epoch",
        "watermarks that open the epoch, in every feed range",
    ),
    TO_COSMOS: (
        "drain: Postgres refuses writes, after those in flight have ended",
        "barrier: every slot of the log is past the drain, and nothing is parked",
        "verify: what was changed since the stores were compared, and the counts",
        "flip: Cosmos DB takes writes, in a new epoch",
        "watermarks that open the epoch, in every feed range",
    ),
    REOPENING_COSMOS: (
        "compare both stores and send what Cosmos DB lacks; what has no row gets a tombstone",
        "hold the log, and compare once more",
        "open the phase in a new epoch: the relay sends states again, from the hold on",
        "watermarks that open the epoch, in every feed range",
    ),
}
_NOTHING: Final = "no switch is under way"
_OPENS: Final = ("open the phase in a new epoch", "watermarks that open the epoch, in every feed range")


class Migration:
    """Moves one installation between its phases.

    Args:
        engine: from core.postgres.engine.open_engine, of the role that owns the captured tables.
        store: the opened Cosmos DB database.
        mappings: of everything that is captured.
        settings: limits, and how gently containers are read.
        ports: what is reached in the outbox; functions.migrating wires them.

    """

    def __init__(
        self, engine: AsyncEngine, store: CosmosStore, mappings: Mappings, settings: Settings, ports: Ports
    ) -> None:
        self._parts = Parts(engine, store, mappings, settings, ports)
        self._engine = engine

    async def plan(
        self, to: Phase, options: StepOptions = OPTIONS, progress: Callable[[Progress], None] = lambda _: None
    ) -> Plan:
        """Say what a step would do and what would refuse it; change nothing.

        Raises:
            TransientError: Postgres did not answer.

        """
        was, _ = await self._look()
        checks = await self._checks(was, to, options, progress, lambda _: None)
        return Plan(was.phase, to, was.epoch, _DOES.get((was.phase, to), _OPENS), tuple(checks))

    async def step(
        self,
        to: Phase,
        *,
        who: str,
        why: str,
        options: StepOptions = OPTIONS,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Report:
        """Step to a neighbouring phase; whatever refuses it, or fails before it is open, is in the report.

        Args:
            to: the phase.
            who: the operator, for the history.
            why: the reason, for the history.
            options: the operator's word, and the limits.
            progress: told how far it is.

        Raises:
            TransientError: Postgres did not answer when it was asked for the phase; nothing was changed.
            asyncio.CancelledError: the process was told to stop; everything was put back.

        """
        began = asyncio.get_running_loop().time()
        was, now = await self._look()
        report = Report(was.phase, to, was.epoch, who, why, now)
        compared: list[Parity] = []
        try:
            async with asyncio.timeout(options.timeout_s):
                report.checks += await self._checks(was, to, options, progress, compared.append)
        except TimeoutError:
            detail = f"they took more than {options.timeout_s:g} s"
            report.checks.append(Check("checks", ok=False, detail=detail, cure="give it a longer --timeout"))
        if compared:
            report.parity = compared[0].facts(with_keys=False)
        if report.refused_by:
            return report
        left_s = options.timeout_s - (asyncio.get_running_loop().time() - began)
        course = Course(self._parts, report, options, progress)
        if (was.phase, to) in {TO_POSTGRES, TO_COSMOS}:
            await begin(course, uuid.uuid4(), compared[0] if compared else None, left_s)
        else:
            await step_without_drain(course, was, left_s)
        return report

    async def resume(
        self,
        *,
        who: str,
        options: StepOptions = OPTIONS,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Report:
        """Go on with the switch that is under way, whose process is gone; harmless if it is not.

        Where none is, the announcement of a step that drained nobody is what may be left.

        Args:
            who: the operator, for the report.
            options: the operator's word, and the limits.
            progress: told how far it is.

        Raises:
            ConflictError: nothing is left to be done.
            TransientError: a store did not answer.
            asyncio.CancelledError: as `step`.

        """
        switch, now = await _pending(self._engine)
        if switch is None:
            return await self._announce_again(who, options, progress)
        log.info("switch.resumed", switch=str(switch.id), step=switch.step.value, who=who)
        report = _report_of(switch, who, now)
        known = await self._mapped()
        if not known.ok:
            report.checks.append(known)
            is_open = switch.step is SwitchStep.OPENED
            report.outcome = Outcome.OPENED if is_open else Outcome.DRAINING
            return report
        compared = switch.facts.get("compared")
        since = None if compared is None else datetime.fromisoformat(compared)
        were_equal = switch.facts.get("were_equal", False)
        await go_on(Course(self._parts, report, options, progress), switch, since, were_equal=were_equal)
        return report

    async def cancel(self, *, who: str, why: str) -> Report:
        """See `cancel_pending`."""
        return await cancel_pending(self._engine, who=who, why=why)

    async def _look(self) -> tuple[PhaseRow, datetime]:
        with translated("reading the phase"):
            async with self._engine.connect() as connection:
                now: datetime = (await connection.exec_driver_sql(_NOW)).scalar_one()
                return await read_phase(connection), now

    async def _checks(
        self,
        was: PhaseRow,
        to: Phase,
        options: StepOptions,
        progress: Callable[[Progress], None],
        on_parity: Callable[[Parity], None],
    ) -> list[Check]:
        parts = self._parts
        known = await self._mapped()
        checks = [] if known.ok else [known]
        return checks + await preflight(
            parts.engine,
            parts.store,
            parts.mappings,
            parts.settings,
            was,
            to,
            options,
            progress=progress,
            on_parity=on_parity,
        )

    async def _mapped(self) -> Check:
        """See that everything that is captured is mapped here: no barrier and no comparison would look at the rest."""
        with translated("reading what is captured"):
            async with self._engine.connect() as connection:
                known: dict[str, Any] = {"known": [mapping.name for mapping in self._parts.mappings]}
                unknown = list((await connection.exec_driver_sql(_UNKNOWN, known)).scalars())
        detail = f"captured, but not among CROSSFEED_MAPPINGS: {', '.join(unknown)}" if unknown else "all are known"
        cure = "set CROSSFEED_MAPPINGS to what all processes have" if unknown else ""
        return Check("mappings", ok=not unknown, detail=detail, cure=cure)

    async def _announce_again(self, who: str, options: StepOptions, progress: Callable[[Progress], None]) -> Report:
        row, now = await self._look()
        if await is_announced(self._engine, self._parts.store, row):
            raise ConflictError(_NOTHING)
        report = Report(row.phase, row.phase, row.epoch, who, "announced again", now)
        await announced(Course(self._parts, report, options, progress), row)
        return report


async def cancel_pending(engine: AsyncEngine, *, who: str, why: str) -> Report:
    """Cancel the switch that is draining: the same primary takes writes again. Needs Postgres alone.

    Raises:
        ConflictError: no switch is under way, it was flipped already, or something does not let go of a table.
        TransientError: Postgres did not answer.

    """
    switch, now = await _pending(engine)
    if switch is None:
        raise ConflictError(_NOTHING)
    if switch.step is not SwitchStep.DRAINING:
        msg = f"switch {switch.id} has opened {switch.to_phase.label}: crossfeed phase resume, then step back"
        raise ConflictError(msg)
    report = _report_of(switch, who, now)
    report.outcome, report.why = Outcome.CANCELLED, why
    await cancel_switch(engine, switch.id, why=f"{who}: {why}", report=report.facts())
    return report


async def _pending(engine: AsyncEngine) -> tuple[Switch | None, datetime]:
    with translated("looking for a switch"):
        async with engine.connect() as connection:
            switch = await pending_switch(connection)
            now: datetime = (await connection.exec_driver_sql(_NOW)).scalar_one()
    return switch, now


def _report_of(switch: Switch, who: str, now: datetime) -> Report:
    return Report(switch.from_phase, switch.to_phase, switch.from_epoch, who, switch.why, now, switch=switch.id)
