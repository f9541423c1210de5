"""Repeats a write that infrastructure failed, for a while; then says whether it is this document or the whole store.

Nothing of it counts as an attempt of the document. A document whose partition is down, or always busy, while others of
its container are written, is postponed: it must not hold back the rest. If nothing is written at all, it is the store.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay
from tenacity.wait import wait_random_exponential

from core.cosmos.breaker import StoreDownError
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.publish import Postponed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.cosmos.lanes import Lane, Lanes

T = TypeVar("T")

PATIENCE_S: Final = 3.0
"""How long infrastructure may fail for one document before it is given up for now, in seconds."""

_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 0.5
_LAST_S: Final = 0.001
_spread = wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)


class Persistence:
    """Insists on writes.

    Args:
        lanes: where they go; counts what is repeated and what is postponed.
        patience_s: how long infrastructure may fail for one document, in seconds; 0: nothing is repeated or postponed.

    """

    def __init__(self, lanes: Lanes, patience_s: float) -> None:
        self._lanes = lanes
        self._patience_s = patience_s

    async def insist(
        self,
        attempt: Callable[[], Awaitable[T]],
        lane: Lane,
        partition: str,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> T | Postponed:
        """Attempt something in a logical partition until it works out or patience ends.

        Args:
            attempt: may be repeated after a CosmosUnavailableError.
            lane: of the container.
            partition: which one fails or works.
            pause: sleeps so many seconds between two attempts, or fewer if there is no use in another.

        Raises:
            CosmosUnavailableError: no document of the container was written meanwhile.
            StoreDownError: nothing is sent there any more, and nothing was known against this one before.
            Exception: whatever else `attempt` raises, at once.

        """
        began_at = self._lanes.clock()
        try:
            return _well(await attempt(), lane, partition)
        except StoreDownError as error:
            return _told_apart(error, lane, partition, None)
        except CosmosUnavailableError as error:
            failures = [error]
        patience_s = 0.0 if lane.illness(partition) else self._patience_s - (self._lanes.clock() - began_at)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            asked: float = getattr(error, "retry_after_s", None) or 0.0
            left_s = patience_s - (state.seconds_since_start or 0.0) - asked
            return asked + min(_spread(state), max(0.0, left_s - _LAST_S))  # the last attempt is when patience ends

        async def again() -> T:
            if failures:
                raise failures.pop()
            self._lanes.retries += 1
            return await attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait,
            stop=stop_before_delay(patience_s),
            sleep=pause,
            reraise=True,
        )
        try:
            return _well(await retrying(again), lane, partition)
        except CosmosUnavailableError as error:
            if not self._patience_s:
                raise
            return _told_apart(error, lane, partition, began_at)


def _told_apart(error: CosmosUnavailableError, lane: Lane, partition: str, failing_since: float | None) -> Postponed:
    """Postpone what others were written beside since it began to fail; raise the error if none were."""
    known = lane.illness(partition)
    since = known.since if known is not None else failing_since
    if since is None or lane.worked_at <= since:
        raise error
    lane.fell_sick(partition, since)
    return Postponed(str(error), error.retry_after_s)


def _well(result: T, lane: Lane, partition: str) -> T:
    lane.illnesses.pop(partition, None)
    return result


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, CosmosUnavailableError) and not isinstance(error, StoreDownError)
