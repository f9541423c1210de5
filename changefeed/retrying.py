"""Repeats what fails in a processor for as long as it runs, and says so in a way that somebody can act on.

Whatever fails is tried again, whatever the error: ending the process would only stop the other feed ranges too, and
whoever starts it again meets the same page. An outage is a warning; what somebody has to look at is an error, logged
at every attempt.
"""

from __future__ import annotations

import asyncio
import traceback
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy.exc import TimeoutError as PoolExhaustedError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from core.errors import ConcurrencyError, CrossfeedError, PrimaryMovedError, TransientError
from core.postgres.leases import LeaseLostError
from core.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger()

T = TypeVar("T")

EXPECTED = (TransientError, ConcurrencyError, PrimaryMovedError, PoolExhaustedError)
"""What happens to a processor that is in order, and passes."""

LEASE_PAUSE_S = 1.0
"""The longest pause of a range whose lease is in doubt, in seconds."""

_backoff = wait_random_exponential(multiplier=0.05, max=10.0)


class UnaskedCancellationError(Exception):
    """Something below was cancelled, such as a future of a library's, and nobody has cancelled this task."""


async def repeated(
    attempt: Callable[[], Awaitable[T]],
    stop: asyncio.Event,
    what: str,
    on_failure: Callable[[BaseException], None],
    errors: tuple[type[Exception], ...] = (Exception,),
) -> T | None:
    """Repeat an attempt that fails with one of `errors`; None if it was time to stop before it succeeded."""

    def note(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            on_failure(error)
            tell(error, what, state.attempt_number)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(errors),
        wait=_pause_after,
        stop=lambda _: stop.is_set(),
        sleep=partial(_sleep, stop),
        before_sleep=note,
        reraise=True,
    )

    async def once() -> T:  # of what is no coroutine function, such as a partial, tenacity awaits nothing
        try:
            return await attempt()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise UnaskedCancellationError from error

    try:
        return await retrying(once)
    except errors:
        return None


def tell(error: BaseException, what: str, attempt: int) -> None:
    """Log a failed attempt; of what is none of ours only where it happened, because its message may quote values."""
    facts = {"what": what, "attempt": attempt, "error": type(error).__name__}
    if isinstance(error, EXPECTED):
        log.warning("processor.repeats", **facts, reason=str(error))
    elif isinstance(error, CrossfeedError):
        log.error("processor.refused", **facts, reason=str(error))
    else:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        log.error("processor.unexpected", **facts, where=[f"{frame.name}:{frame.lineno}" for frame in frames])


def _pause_after(state: RetryCallState) -> float:
    """Back off with jitter, at least for as long as Cosmos DB asked."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, LeaseLostError):  # it asks nobody but this process, and may be held again in a moment
        return min(_backoff(state), LEASE_PAUSE_S)
    return max(_backoff(state), getattr(error, "retry_after_s", None) or 0.0)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    await pause(seconds, stop)
