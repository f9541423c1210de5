"""Follows one feed range that is held: page, apply, checkpoint, page; the next page is read while the last one commits.

What has to be read before the documents are (the phase) is kept from page to page, because whoever applies them
compares it under its locks: as long as they agree nobody has switched since it was read, and an idle follower asks
Postgres nothing.

A range that was split shows in its continuation, which then has several parts. The page that was read with it and the
parts' own checkpoints are one transaction; each part is followed from there by whoever gets it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from changefeed.checkpoints import Step, move_checkpoint, read_checkpoint
from core.cosmos.feed import parts
from core.pace import Pace
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from changefeed.feed_leases import FeedLease
    from changefeed.lag import RangeLag
    from changefeed.ports import Feed
    from changefeed.pressure import Pressure
    from changefeed.stats import ProcessorStats
    from core.cosmos.feed import FeedPage, FeedPart


BACKLOG_SHARE: Final = 0.5
"""How full a page is, as a share of its size, when more is expected behind it. Asking for the next one after a few
changes would only keep the processor busy while they commit."""


class Passed(Enum):
    """How a pass over a feed range ended."""

    IDLE = auto()
    """There was nothing."""
    MOVED = auto()
    """Something was applied; there may be more."""
    SPLIT = auto()
    """The range is no more; its parts have leases of their own."""


class Follower:
    """The reader of one feed range.

    Args:
        engine: for the checkpoint.
        feed: whose range it is.
        lease: the range, as it is held.
        check: raises LeaseLostError once the range must not be acted for.
        pressure: what Postgres can bear.
        lag: where it notes how far it is.
        stats: where it counts what it did.
        clock: seconds since 1970, for the lag.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        engine: AsyncEngine,
        feed: Feed,
        lease: FeedLease,
        check: Callable[[], None],
        *,
        pressure: Pressure,
        lag: RangeLag,
        stats: ProcessorStats,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._feed = feed
        self._lease = lease
        self._check = check
        self._pressure = pressure
        self._stats = stats
        self._clock = clock
        self.lag = lag
        self.pace = Pace(feed.page_size)
        self._is_loaded = False
        self._begun: Any = None
        self._checkpoint: str | None = None
        self._continuation: str | None = None

    @property
    def name(self) -> str:
        """Feed and range, for logs."""
        return f"{self._lease.feed} {self._lease.range.key}"

    def forget(self) -> None:
        """Start again from what is recorded, as after any error."""
        self._is_loaded = False

    async def catch_up(self, is_stopping: Callable[[], bool]) -> Passed:
        """Apply page by page until nothing is left or it is time to stop.

        Raises:
            PrimaryMovedError: the phase has moved since it was read.
            ConcurrencyError: a deadlock was broken.
            LeaseLostError: the range is another processor's, or may be by now.
            StoreUnavailableError: one of the stores did not answer.

        """
        self._check()
        if not self._is_loaded:
            await self._load()
        if self._continuation is not None and len(found := parts(self._continuation)) > 1:
            await self._move(found)
            return Passed.SPLIT
        moved = Passed.IDLE
        page_size = self.pace.page_size
        source = self._feed.read(self._feed.container, self._lease.range, self._continuation, page_size)

        def is_more_wanted(page: FeedPage) -> bool:
            return self.pace.page_size == page_size and len(page.documents) >= page_size * BACKLOG_SHARE

        async with aclosing(_ahead(source, is_more_wanted)) as ahead:
            async for page, position in ahead:
                self._stats.request_units += page.charge
                if page.documents:
                    await self._apply(page, position)
                    moved = Passed.MOVED
                elif len(position) > 1 or (self._checkpoint is None and self._feed.begins_now):
                    await self._move(position)
                else:
                    # An empty page writes nothing: without its checkpoint it would only be read again.
                    self.lag.at_end()
                if len(position) > 1:
                    return Passed.SPLIT
                self._continuation = page.continuation
                if is_stopping():
                    break
        return moved

    async def _load(self) -> None:
        with translated(f"reading the checkpoint of {self.name}"):
            async with self._engine.connect() as connection:
                self._checkpoint = self._continuation = await read_checkpoint(connection, self._lease)
        self._begun = await self._feed.applier.begin()
        self._is_loaded = True

    async def _apply(self, page: FeedPage, position: list[FeedPart]) -> None:
        self.lag.read(page)
        step = Step(self._lease, self._checkpoint, position)
        async with self._pressure.batch(self.pace):
            self._check()
            await self._feed.applier.apply(
                self._feed.container_name, page.documents, self._begun, partial(self._acknowledge, step)
            )
        self._checkpoint = position[0].continuation
        self.lag.applied(page)
        now = self._clock()
        self._stats.page(len(page.documents), (now - int(item["_ts"]) for item in page.documents))

    async def _move(self, position: list[FeedPart]) -> None:
        with translated(f"moving the checkpoint of {self.name}"):
            async with self._engine.begin() as connection:
                await self._acknowledge(Step(self._lease, self._checkpoint, position), connection)
        self._checkpoint = position[0].continuation

    async def _acknowledge(self, step: Step, connection: AsyncConnection) -> None:
        self._check()
        await move_checkpoint(connection, step)


async def _ahead(
    source: AsyncGenerator[FeedPage, None], is_more_wanted: Callable[[FeedPage], bool]
) -> AsyncGenerator[tuple[FeedPage, list[FeedPart]], None]:
    """Yield pages with their positions; while one is worked on, the next is read if it is wanted.

    Of a range that was split no more is read than the page that showed it.
    """
    coming: asyncio.Task[FeedPage | None] | None = asyncio.ensure_future(_next(source))
    try:
        while coming is not None and (page := await coming) is not None:
            position = parts(page.continuation)
            is_last = not page.documents or len(position) > 1 or not is_more_wanted(page)
            coming = None if is_last else asyncio.ensure_future(_next(source))
            yield page, position
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await source.aclose()


async def _next(source: AsyncGenerator[FeedPage, None]) -> FeedPage | None:
    return await anext(source, None)
