"""Moves the primary: drain, barrier, verify, flip, announce; whatever fails before the flip puts everything back.

    begin_switch -> [writers] -> barrier -> dead letters -> verification -> flip -> watermarks -> finish_switch
         `------------------------- cancel_switch <------------------------'

What a crash leaves behind is the recorded state: `draining` until the flip's own transaction, `opened` after it, and
anybody may go on from either. All that is waited for has a limit of this process' own, since writers wait too. A
process that sleeps through the end of its switch finds out by the switch's id, which the database compares.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from core.errors import CrossfeedError
from core.migration.approach import Approach
from core.migration.ending import complete, insistently, put_back
from core.phases import PHASE_AGE_S
from core.postgres.switch_record import SwitchStep
from core.postgres.switching import begin_switch, note_switch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from uuid import UUID

    from core.migration.course import Course
    from core.migration.parity import Parity
    from core.postgres.switch_record import Switch

log = structlog.get_logger()


async def begin(course: Course, switch_id: UUID, compared: Parity | None, left_s: float) -> None:
    """Drain, and go on to the end; the report says what came of it.

    Args:
        course: of the switch.
        switch_id: the id that it gets.
        compared: what the comparison of the live stores has found.
        left_s: how many seconds are left for everything until the flip.

    Raises:
        asyncio.CancelledError: everything was put back, unless the report says otherwise.

    """
    report, engine = course.report, course.parts.engine
    report.switch = switch_id

    async def drain() -> Switch:
        course.at("drain")
        switch = await begin_switch(
            engine,
            report.to_phase,
            who=report.who,
            why=report.why,
            patience=min(left_s, course.options.pause_budget_s),
            switch_id=switch_id,
            lease_s=course.parts.settings.write_lease_s,
        )
        if compared is not None:
            facts = {"compared": compared.as_of, "were_equal": compared.is_equal}
            await note_switch(engine, switch_id, facts)
        log.info("switch.drained", switch=str(switch_id), phase=report.from_phase.label)
        course.passed(f"{report.from_phase.primary.value} takes no more writes")
        return switch

    since = None if compared is None else compared.as_of
    await _to_the_end(course, drain, left_s, since, were_equal=compared is not None and compared.is_equal)


async def go_on(course: Course, switch: Switch, since: datetime | None, *, were_equal: bool) -> None:
    """Go on from the recorded state of a switch that was left; the report says what came of it.

    Args:
        course: of the switch.
        switch: as it is recorded, draining or opened.
        since: what was changed before then was compared.
        were_equal: and found to be equal.

    Raises:
        asyncio.CancelledError: as `begin`.

    """
    course.report.switch = switch.id
    if switch.step is not SwitchStep.DRAINING:
        await insistently(complete(course, switch.id))
        return

    async def drained() -> Switch:
        return switch

    await _to_the_end(course, drained, course.options.timeout_s, since, were_equal=were_equal)


async def _to_the_end(
    course: Course,
    drain: Callable[[], Awaitable[Switch]],
    left_s: float,
    since: datetime | None,
    *,
    were_equal: bool,
) -> None:
    switch_id = course.report.switch
    assert switch_id is not None
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + left_s
    try:
        async with asyncio.timeout_at(ends_at) as limit:
            switch = await drain()
            drained_at = loop.time()
            limit.reschedule(min(ends_at, drained_at + course.options.pause_budget_s))
            approach = Approach(course, switch)
            is_open = False
            while not is_open:
                await approach.arrive()
                course.report.lag_ms = (loop.time() - drained_at) * 1000
                await approach.check_letters()
                await approach.verify(since, were_equal=were_equal)
                # Whoever believes a steady phase that was read before the drain has asked again by then.
                await asyncio.sleep(drained_at + PHASE_AGE_S - loop.time())
                is_open = await approach.flip()
    except TimeoutError:
        await insistently(put_back(course, switch_id, "it took too long"))
    except CrossfeedError as error:
        await insistently(put_back(course, switch_id, str(error)))
    except BaseException as error:
        await insistently(put_back(course, switch_id, f"stopped by {type(error).__name__}"))
        raise
    else:
        await insistently(complete(course, switch_id))
