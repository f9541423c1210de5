"""Repeats a request of a repository that a busy Cosmos DB turned away, and a read whose connection was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
)

from core.cosmos.failures import DRIVER_ERRORS, CosmosUnavailableError, Unavailable, failure_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

R = TypeVar("R")

PATIENCE_S: Final = 5.0
"""How long a repository waits in all, in seconds, before it reports a busy store."""

_CUT_WAIT_S = 0.05
_CUT_ATTEMPTS = 3


async def patiently_write(request: Callable[[], Awaitable[R]]) -> R:
    """Await a write, again after each time that Cosmos DB did not carry it out and asked to wait.

    Raises whatever the last attempt raised: one of DRIVER_ERRORS.
    """

    async def attempt() -> R:  # a coroutine function: tenacity awaits nothing else
        return await request()

    return await AsyncRetrying(
        retry=retry_if_exception(lambda error: _asked_to_wait(error) is not None),
        wait=_wait,
        stop=stop_before_delay(PATIENCE_S),
        reraise=True,
    )(attempt)


async def patiently_read(request: Callable[[], Awaitable[R]]) -> R:
    """Await a read, again after each time that Cosmos DB asked to wait, and after a connection was cut.

    Raises:
        StoreUnavailableError: the last attempt failed like the others.

    """

    async def attempt() -> R:
        return await request()

    return await AsyncRetrying(
        retry=retry_if_exception_type(CosmosUnavailableError),
        wait=_wait,
        stop=_is_enough,
        reraise=True,
    )(attempt)


def _is_enough(state: RetryCallState) -> bool:
    asked = _asked_to_wait(state.outcome.exception()) is not None if state.outcome else False
    return (stop_before_delay(PATIENCE_S) if asked else stop_after_attempt(_CUT_ATTEMPTS))(state)


def _wait(state: RetryCallState) -> float:
    asked = _asked_to_wait(state.outcome.exception()) if state.outcome else None
    return _CUT_WAIT_S if asked is None else asked


def _asked_to_wait(error: BaseException | None) -> float | None:
    """Return the seconds to wait before a request that was certainly not carried out may be sent again."""
    match error:
        case CosmosUnavailableError():
            return error.retry_after_s
        case _ if isinstance(error, DRIVER_ERRORS):
            failure = failure_of(error)
            return failure.retry_after_s if isinstance(failure, Unavailable) else None
        case _:
            return None
