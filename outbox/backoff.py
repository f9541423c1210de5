"""Repeats a step for as long as the infrastructure fails, ever more slowly, until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from core.errors import ConflictError, TransientError
from core.waiting import pause

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

log = structlog.get_logger()

T = TypeVar("T")

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 15.0


async def patiently(step: Callable[[], Awaitable[T]], stop: asyncio.Event, on_retry: Callable[[], None]) -> T | None:
    """Run `step` until it succeeds; return None if `stop` was set before it did.

    Waits are random up to a bound that doubles to 15 s, and never shorter than the store asked for. They count as
    attempts of nothing and nobody.

    Raises:
        Exception: whatever `step` raises that is neither transient nor a conflict.

    """
    spread = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked: float = getattr(error, "retry_after_s", None) or 0.0
        return asked + spread(state)

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        on_retry()
        log.warning("relay.waiting", error=type(error).__name__, reason=str(error), attempts=state.attempt_number)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((TransientError, ConflictError)),
        wait=wait,
        stop=lambda _: stop.is_set(),
        before_sleep=before_sleep,
        sleep=lambda seconds: pause(seconds, stop),
        reraise=True,
    )

    async def attempt() -> T:  # of what is no coroutine function, such as a lambda, tenacity awaits nothing
        return await step()

    try:
        return await retrying(attempt)
    except (TransientError, ConflictError):
        return None
