"""Runs the mirror without Azure Functions: a change feed processor on the pull API, which Python's SDK does not have.

One task per container and feed range, each as in changefeed.follower. A feed range that splits keeps its changes coming
under its old name; a processor that starts after the split reads the new ranges from the beginning, which costs time
and changes nothing in Postgres.

A feed range that fails is tried again for ever, whatever the error: ending the process would only stop the other ranges
too, and whoever starts it again meets the same page. An outage is a warning; what somebody has to look at is an error,
logged at every attempt.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy.exc import TimeoutError as PoolExhaustedError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from changefeed.follower import Follower
from changefeed.mirror import Mirror
from changefeed.stats import ProcessorStats
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges
from core.errors import ConcurrencyError, CrossfeedError, PrimaryMovedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings

log = structlog.get_logger()

T = TypeVar("T")

EXPECTED = (TransientError, ConcurrencyError, PrimaryMovedError, PoolExhaustedError)
"""What happens to a processor that is in order, and passes."""

BUSY_PAUSE_SHARE = 0.1
"""The pause after a page, as a share of the longest: short, yet long enough for a few documents to share a commit."""
GRACE_S = 5.0
"""How long a page may take to finish after the stop, in seconds; then its transaction is rolled back."""

_backoff = wait_random_exponential(multiplier=0.05, max=10.0)


class Processor:
    """Mirrors all mapped containers for as long as it runs.

    Two processors on the same ranges do no harm: of two equal batches one is rolled back by its checkpoint.

    Args:
        engine: from core.postgres.engine.open_engine; at most one connection per feed range is in use.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        page_size: about how many documents one transaction mirrors.
        poll_ms: the longest pause between two polls of an idle feed range; after a page it is shorter at first.
        clock: seconds since 1970, for the lag.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        *,
        page_size: int = 100,
        poll_ms: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._store = store
        self._mappings = mappings
        self._page_size = page_size
        self._poll_s = poll_ms / 1000
        self._clock = clock
        self.stats = ProcessorStats()

    async def run(self, stop: asyncio.Event) -> None:
        """Mirror until `stop` is set, then finish the pages at hand.

        Raises:
            CrossfeedError: at the start, what trying again does not cure, such as a container that is not there.

        """
        followers = await self._repeated(self._followers, stop, "feed ranges", EXPECTED)
        if followers is None:
            return
        log.info("processor.started", feed_ranges=len(followers))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._follow(follower, stop)) for follower in followers]
                group.create_task(_cancel_late(tasks, stop))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        log.info("processor.stopped", documents=self.stats.documents)

    async def run_once(self) -> None:
        """Mirror everything that is in the feeds now, and return.

        Raises:
            TransientError: infrastructure failed; what was acknowledged stays so.
            ConflictError: a switch or another processor came in between.

        """
        for follower in await self._followers():
            while await follower.catch_up(lambda: False):
                pass

    async def _followers(self) -> list[Follower]:
        mirror = Mirror(self._engine, CosmosDocuments(self._store, self._mappings))
        return [
            Follower(
                self._engine,
                mirror,
                mapping,
                self._store.container(mapping),
                feed_range,
                page_size=self._page_size,
                stats=self.stats,
                clock=self._clock,
            )
            for mapping in self._mappings
            for feed_range in await feed_ranges(self._store.container(mapping))
        ]

    async def _follow(self, follower: Follower, stop: asyncio.Event) -> None:
        pause = shortest = self._poll_s * BUSY_PAUSE_SHARE
        while not stop.is_set():
            catch_up = partial(follower.catch_up, stop.is_set)
            moved = await self._repeated(catch_up, stop, follower.name, (Exception,), follower.forget)
            pause = shortest if moved else min(pause * 2, self._poll_s)
            await _wait(stop, pause)

    async def _repeated(
        self,
        attempt: Callable[[], Awaitable[T]],
        stop: asyncio.Event,
        what: str,
        errors: tuple[type[Exception], ...],
        forget: Callable[[], None] = lambda: None,
    ) -> T | None:
        """Repeat an attempt that fails with one of `errors`; None if it was time to stop before it succeeded."""

        def note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            self.stats.retries[type(error).__name__] += 1
            forget()
            _tell(error, what, state.attempt_number)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(errors),
            wait=_pause_after,
            stop=lambda _: stop.is_set(),
            sleep=partial(_wait, stop),
            before_sleep=note,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except errors:
            return None


def _tell(error: BaseException | None, what: str, attempt: int) -> None:
    """Log a failed attempt; of what is none of ours only where it happened, because its message may quote values."""
    facts = {"what": what, "attempt": attempt, "error": type(error).__name__}
    if isinstance(error, EXPECTED):
        log.warning("processor.repeats", **facts, reason=str(error))
    elif isinstance(error, CrossfeedError):
        log.error("processor.refused", **facts, reason=str(error))
    else:
        frames = traceback.extract_tb(error.__traceback__ if error is not None else None)[-3:]
        log.error("processor.unexpected", **facts, where=[f"{frame.name}:{frame.lineno}" for frame in frames])


def _pause_after(state: RetryCallState) -> float:
    """Back off with jitter, at least for as long as Cosmos DB asked."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_backoff(state), getattr(error, "retry_after_s", None) or 0.0)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _cancel_late(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    await stop.wait()
    _, late = await asyncio.wait(tasks, timeout=GRACE_S)
    for task in late:
        task.cancel()
