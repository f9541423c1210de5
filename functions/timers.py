"""The timers: canaries, what is parked, reconcile, comparison, retention; one instance runs each, never twice at once.

A timer that fails has no retry: it comes again by its schedule, and goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import azure.functions as func
import structlog

from functions.chores import CHORES
from functions.runtime import RUNTIME, Runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from functions.chores import Chore


log = structlog.get_logger()


def blueprint(runtime: Runtime = RUNTIME) -> func.Blueprint:
    """Return the functions of all timers."""
    found = func.Blueprint()
    for name, chore in CHORES.items():
        with_name = found.function_name(name)
        with_timer = found.timer_trigger(
            arg_name="timer",
            schedule=f"%CROSSFEED_{name.upper()}_SCHEDULE%",
            run_on_startup=False,
            use_monitor=True,
        )
        with_name(with_timer(_handler(runtime, name, chore)))
    return found


def _handler(runtime: Runtime, name: str, chore: Chore) -> Callable[[func.TimerRequest], Awaitable[None]]:
    async def handler(timer: func.TimerRequest) -> None:
        if timer.past_due:
            log.info("timer.late", name=name)
        await chore(runtime)

    return handler
