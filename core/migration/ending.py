"""Ends a switch: announces the epoch of one that was flipped, puts everything back after one that was not.

Which of the two it is, the database says: whoever lost sight of a flip, or slept while others ended the switch, asks.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from core.errors import ConflictError, CrossfeedError
from core.migration.announcing import announce
from core.migration.barrier import patiently
from core.migration.report import Outcome
from core.phases import PhaseRow, PhaseState
from core.postgres.failures import translated
from core.postgres.switch_record import SwitchStep, read_switch
from core.postgres.switching import cancel_switch, finish_switch

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from uuid import UUID

    from core.migration.course import Course
    from core.postgres.switch_record import Switch

log = structlog.get_logger()

PUT_BACK_S: Final = 60.0
"""How long it is tried to put everything back, in seconds; then an operator has to."""
ANNOUNCE_S: Final = 30.0
"""How long it is tried to announce an epoch, in seconds; then somebody has to resume the switch."""


async def put_back(course: Course, switch_id: UUID, why: str) -> None:
    """Cancel a switch, unless it has been flipped; whoever else has ended it is believed. What failed is reported.

    Args:
        course: at the stage that failed.
        switch_id: of the switch, which may never have begun.
        why: what failed.

    """
    report = course.report
    course.failed(why)
    log.warning("switch.not_made", switch=str(switch_id), stage=course.stage, why=why)
    report.outcome = Outcome.CANCELLED
    try:
        async with asyncio.timeout(PUT_BACK_S):
            step = await patiently(partial(_cancel, course, switch_id, why), course.waits)
    except (CrossfeedError, TimeoutError) as error:
        report.outcome = Outcome.DRAINING
        course.at("put back")
        course.failed(str(error) or f"no answer for {PUT_BACK_S:g} s")
        return
    match step:
        case None:
            report.switch, report.outcome = None, Outcome.REFUSED
        case SwitchStep.CANCELLED:
            pass
        case _:
            report.checks[-1] = replace(report.checks[-1], ok=True, cure="")  # it was in vain only as far as we saw
            await complete(course, switch_id)


async def complete(course: Course, switch_id: UUID) -> None:
    """Announce the epoch of a switch that was flipped, and end it; what failed is reported. May be repeated."""
    report, parts = course.report, course.parts
    course.at("watermarks")
    report.outcome = Outcome.OPENED
    try:
        async with asyncio.timeout(ANNOUNCE_S):
            switch = await patiently(partial(_read, course, switch_id), course.waits)
            if switch is None or switch.opened_epoch is None or switch.flipped_at is None:
                msg = f"switch {switch_id} was not flipped"
                raise ConflictError(msg)
            report.pause_ms = (switch.flipped_at - switch.started_at).total_seconds() * 1000
            report.epoch = switch.opened_epoch
            row = PhaseRow(switch.to_phase, switch.opened_epoch, PhaseState.STEADY)
            ttl_s = parts.settings.tombstone_ttl_s
            await patiently(partial(announce, parts.engine, parts.store, parts.mappings, row, ttl_s), course.waits)
            facts = {**report.facts(), "outcome": Outcome.DONE.value}
            await patiently(partial(finish_switch, parts.engine, switch_id, facts), course.waits)
    except (CrossfeedError, TimeoutError) as error:
        course.failed(str(error) or f"no answer for {ANNOUNCE_S:g} s")
    else:
        course.passed(f"of epoch {report.epoch}, in every feed range")
        report.outcome = Outcome.DONE
        log.info("switch.done", switch=str(switch_id), epoch=report.epoch, pause_ms=report.pause_ms)


async def announced(course: Course, row: PhaseRow) -> None:
    """Announce the epoch of a step that drained nobody; what failed is reported. May be repeated."""
    parts = course.parts
    course.at("watermarks")
    course.report.outcome = Outcome.OPENED
    try:
        async with asyncio.timeout(ANNOUNCE_S):
            ttl_s = parts.settings.tombstone_ttl_s
            await patiently(partial(announce, parts.engine, parts.store, parts.mappings, row, ttl_s), course.waits)
    except (CrossfeedError, TimeoutError) as error:
        course.failed(str(error) or f"no answer for {ANNOUNCE_S:g} s")
    else:
        course.passed(f"of epoch {row.epoch}, in every feed range")
        course.report.outcome = Outcome.DONE


async def insistently(work: Awaitable[None]) -> None:
    """Await to its end what has a limit of its own, whoever cancels meanwhile; then let the cancellation through."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def _cancel(course: Course, switch_id: UUID, why: str) -> SwitchStep | None:
    """Cancel it, or say how else it has ended; None: it never began."""
    while True:
        try:
            await cancel_switch(course.parts.engine, switch_id, why=why, report=course.report.facts())
        except ConflictError as error:
            switch = await _read(course, switch_id)
            if switch is None:
                return None
            if switch.step is not SwitchStep.DRAINING:
                return switch.step
            log.warning("switch.not_put_back", switch=str(switch_id), why=str(error))
        else:
            return SwitchStep.CANCELLED


async def _read(course: Course, switch_id: UUID) -> Switch | None:
    with translated("reading a switch"):
        async with course.parts.engine.connect() as connection:
            return await read_switch(connection, switch_id)
