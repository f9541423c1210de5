"""Opens the phases between which nobody has to be drained, because the primary stays what it is: 0 <-> 1 and 2 <-> 3.

On the way from 3 to 2 everything that Cosmos DB has missed is sent first, and what is written meanwhile is sent by the
relay, from where the log was held.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from core.errors import ConflictError, CrossfeedError, TransientError
from core.migration.catch_up import send_changes, send_once
from core.migration.checks import REOPENING_COSMOS
from core.migration.ending import announced, insistently
from core.postgres.failures import translated
from core.postgres.phases import open_phase, read_phase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.migration.catch_up import Hold, Log
    from core.migration.course import Course
    from core.phases import PhaseRow

log = structlog.get_logger()

NAMED: Final = 5
"""How many documents that are refused are named."""
RENEW_S: Final = 300.0
"""How often the hold on the log is renewed while both stores are read, which may take longer than it lasts."""


async def step_without_drain(course: Course, was: PhaseRow, left_s: float) -> None:
    """Open a neighbouring phase of the same primary, and announce it; the report says what came of it.

    Args:
        course: of the step.
        was: the phase that was looked at.
        left_s: how many seconds are left until it is open.

    """
    report, engine = course.report, course.parts.engine
    is_reopening = (was.phase, report.to_phase) == REOPENING_COSMOS
    course.at("step")
    row = None
    try:
        async with asyncio.timeout(left_s):
            row = await (_follow_again(course, was) if is_reopening else _open(course, was))
    except (CrossfeedError, TimeoutError) as error:
        course.failed(str(error) or "it took too long")
        # The answer may be what was lost. Should it have been another who opened it, this announces it once more.
        with suppress(TransientError), translated("reading the phase"):
            async with engine.connect() as connection:
                row = await read_phase(connection)
        if row is None or (row.phase, row.epoch) != (report.to_phase, was.epoch + 1):
            return
        report.checks.pop()
    report.epoch = row.epoch
    log.info("phase.opened", phase=row.phase.label, epoch=row.epoch)
    course.passed(f"{row.phase.label} in epoch {row.epoch}")
    await insistently(announced(course, row))


async def _open(course: Course, was: PhaseRow) -> PhaseRow:
    """Open the phase, if nobody has made a step since `was` was read."""

    async def only_the_next(_: AsyncConnection, row: PhaseRow) -> None:
        _check_next(was, row)

    report = course.report
    with translated(f"opening phase {report.to_phase.label}"):
        return await open_phase(
            course.parts.engine, report.to_phase, who=report.who, why=report.why, meanwhile=only_the_next
        )


async def _follow_again(course: Course, was: PhaseRow) -> PhaseRow:
    """Send what Cosmos DB has missed, then open the phase in which it follows.

    The first round takes as long as it takes; what the log is held for finds little.
    """
    parts, report = course.parts, course.report
    what = (parts.engine, parts.store, parts.mappings, parts.ports.publisher, course.progress)
    first = await send_once(*what)
    hold = await parts.ports.hold.take()

    async def rewind(connection: AsyncConnection, row: PhaseRow) -> None:
        _check_next(was, row)
        await parts.ports.hold.rewind(connection, hold, row)

    try:
        async with _renewing(parts.ports.hold, hold):
            rest = await send_changes(*what, since=first.begun)
        _accept(course, {**first.refused, **rest.refused})
        await parts.ports.hold.renew(hold)
        with translated("opening the phase in which Cosmos DB follows"):
            return await open_phase(parts.engine, report.to_phase, who=report.who, why=report.why, meanwhile=rewind)
    finally:
        with suppress(TransientError):  # it ends by itself
            await parts.ports.hold.release(hold)


@asynccontextmanager
async def _renewing(log_hold: Log, hold: Hold) -> AsyncGenerator[None]:
    """Renew a hold meanwhile; that it was lost is found out by whoever renews it afterwards."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with suppress(TransientError):
                await log_hold.renew(hold)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


def _accept(course: Course, refused: Mapping[Identity, str]) -> None:
    """Accept what Cosmos DB refuses for ever, all of it dead letters, if it is no more than the operator does."""
    accepted = course.options.accept_dead_letters
    course.report.dead_letters = len(refused)
    if len(refused) > accepted:
        named = "; ".join(f"{identity}: {reason}" for identity, reason in list(refused.items())[:NAMED])
        msg = f"Cosmos DB refuses {len(refused)} documents, {accepted} accepted: {named}"
        raise ConflictError(msg)


def _check_next(was: PhaseRow, row: PhaseRow) -> None:
    if row.epoch != was.epoch + 1:
        msg = f"somebody has made a step since epoch {was.epoch} was looked at; begin again"
        raise ConflictError(msg)
