"""Runs feeds without Azure Functions: a change feed processor on the pull API, which Python's SDK does not have.

Several processes share the ranges of all feeds by leases (changefeed.feed_leases). Each range that is held is followed
by a task of its own (changefeed.follower): the mirror's, one feed for each mapped container, and those of whoever else
applies a feed (changefeed.ports). A range that fails is tried again for ever and stops no other (changefeed.retrying).
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from changefeed.feed_leases import FeedLease, FeedLeases
from changefeed.follower import Follower, Passed
from changefeed.lag import RangeLag
from changefeed.mirror_feed import mirror_feeds
from changefeed.pressure import Pressure
from changefeed.ranges import add_ranges
from changefeed.retrying import EXPECTED, repeated, tell
from changefeed.stats import ProcessorStats
from core.postgres.engine import ending_silence
from core.postgres.mirror_parking import MirrorPatience
from core.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.lag import RangeHealth
    from changefeed.ports import Applier, Feed
    from core.cache.notices import Notices
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings

log = structlog.get_logger()

BUSY_PAUSE_SHARE: Final = 0.1
"""The pause after a page, as a share of the longest: short, yet long enough for a few documents to share a commit."""
GRACE_S: Final = 5.0
"""How long a page may take to finish after the stop, in seconds; then its transaction is rolled back."""
LIST_S: Final = 60.0
"""How often feed ranges are looked for that have no position, in seconds."""
IDLE_S: Final = 1.0
"""About how often appliers are asked to do what does not wait for changes, in seconds."""


@dataclass(frozen=True, slots=True)
class ProcessorHealth:
    """How a processor is: how long its leases are good for, and each range that it holds."""

    is_stopping: bool
    lease_left_s: float
    processors: int
    ranges: tuple[RangeHealth, ...]


@dataclass(slots=True)
class _Following:
    follower: Follower
    lease: FeedLease
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Processor:
    """Applies the changes of all mapped containers, and of other feeds, for as long as it runs.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        page_size: about how many documents one transaction mirrors.
        poll_ms: the longest pause between two polls of an idle feed range; after a page it is shorter at first.
        lease_s: seconds that the ranges of a silent processor stay its own.
        patience: how often and how soon the mirror tries parked documents again.
        feeds: what else is applied.
        clock: seconds since 1970, for the lag.
        notices: tells a cache of what was mirrored.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        *,
        page_size: int = 100,
        poll_ms: int = 100,
        lease_s: float = 10.0,
        patience: MirrorPatience = MirrorPatience(),  # noqa: B008 - immutable
        feeds: Sequence[Feed] = (),
        clock: Callable[[], float] = time.time,
        notices: Notices | None = None,
    ) -> None:
        self._engine = ending_silence(engine, lease_s)
        self._poll_s = poll_ms / 1000
        self._clock = clock
        self.stats = ProcessorStats()
        mirrored = mirror_feeds(
            self._engine, store, mappings, self.stats, page_size=page_size, patience=patience, notices=notices
        )
        self._feeds = {feed.name: feed for feed in (*mirrored, *feeds)}
        self.leases = FeedLeases(engine, self._feeds, lease_s)
        self._pressure = Pressure(_connections(engine))
        self._following: dict[tuple[Any, int], _Following] = {}
        self._is_stopping = False

    @property
    def appliers(self) -> dict[str, Applier]:
        """Who applies what is read, each once, by the name of its first feed."""
        found: dict[int, tuple[str, Applier]] = {}
        for feed in self._feeds.values():
            found.setdefault(id(feed.applier), (feed.name, feed.applier))
        return dict(found.values())

    def health(self) -> ProcessorHealth:
        """Say how it is; waits for no store."""
        ranges = tuple(following.follower.lag.health() for following in self._following.values())
        return ProcessorHealth(self._is_stopping, self.leases.left_s, self.leases.holders, ranges)

    async def run(self, stop: asyncio.Event) -> None:
        """Apply until `stop` is set, then finish the pages at hand and hand the ranges over.

        Raises:
            CrossfeedError: at the start, what trying again does not cure, such as a container that is not there.

        """
        if await repeated(self._prepare, stop, "feed ranges", self._failed, EXPECTED) is None:
            return
        log.info("processor.started", feeds=sorted(self._feeds), processor=str(self.leases.holder_id))
        try:
            async with self.leases.kept():
                await self._run(stop)
        finally:
            self._is_stopping = False
            await self._hand_over()
        log.info("processor.stopped", documents=self.stats.documents)

    async def _run(self, stop: asyncio.Event) -> None:
        beside = [asyncio.ensure_future(self._idle(applier, stop)) for applier in self.appliers.values()]
        beside.append(asyncio.ensure_future(self._list_again(stop)))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self.leases.changed.clear()
                self._adjust()
                changed = asyncio.ensure_future(self.leases.changed.wait())
                await asyncio.wait((changed, stopping), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            self._is_stopping = True
            await self._finish([*beside, stopping])

    async def run_once(self) -> None:
        """Apply everything that is in the feeds now, and return. Takes all ranges, from whoever has them.

        Raises:
            TransientError: infrastructure failed; what was acknowledged stays so.
            ConflictError: a switch or another processor came in between.

        """
        await self._prepare()
        await self.leases.take_all()
        done: set[tuple[str, str]] = set()
        try:
            async with self.leases.kept():
                while todo := [lease for lease in self.leases.held if lease.key not in done]:
                    follower = self._follower(todo[0])
                    while (passed := await follower.catch_up(lambda: False)) is Passed.MOVED:
                        pass
                    done.add(todo[0].key)
                    if passed is Passed.SPLIT:
                        await self.leases.take_all()
                for applier in self.appliers.values():
                    while await applier.idle(await applier.begin()):
                        pass
        finally:
            await self.leases.hand_over()

    async def _prepare(self) -> bool:
        await add_ranges(self._engine, tuple(self._feeds.values()))
        return True

    def _follower(self, lease: FeedLease) -> Follower:
        feed = self._feeds[lease.feed]
        return Follower(
            self._engine,
            feed,
            lease,
            partial(self.leases.check_held, lease),
            pressure=self._pressure,
            lag=RangeLag(lease.feed, lease.range.key, self._clock),
            stats=self.stats,
            clock=self._clock,
        )

    def _adjust(self) -> None:
        """Follow what was taken, drop what is lost or over, and let go of what is too much after its page at hand."""
        held = {(lease.key, lease.token): lease for lease in self.leases.held}
        for key, following in list(self._following.items()):
            task = following.task
            if key not in held or task is None or task.done():
                del self._following[key]
                following.stop.set()  # also for what lets a cancellation pass over it
                if task is not None:
                    task.cancel()
        for key, lease in held.items():
            if key not in self._following:
                following = self._following[key] = _Following(self._follower(lease), lease)
                following.task = asyncio.ensure_future(self._follow(following))
                following.task.add_done_callback(lambda _: self.leases.changed.set())
        for lease in self.leases.surplus:
            self._following[lease.key, lease.token].stop.set()

    async def _follow(self, following: _Following) -> None:
        follower, stop = following.follower, following.stop
        pause_s = shortest = self._poll_s * BUSY_PAUSE_SHARE

        def failed(error: BaseException) -> None:
            self._failed(error)
            follower.lag.failed(error)
            follower.forget()

        while not stop.is_set():
            passed = await repeated(partial(follower.catch_up, stop.is_set), stop, follower.name, failed)
            if passed is Passed.SPLIT:
                self.stats.splits += 1
                log.info("processor.feed_range_split", what=follower.name)
                break
            pause_s = shortest if passed is Passed.MOVED else min(pause_s * 2, self._poll_s)
            await pause(max(pause_s, follower.pace.pause_s), stop)
        await self._let_go(following.lease)

    async def _let_go(self, lease: FeedLease) -> None:
        """Release a range at once, so that another processor may have it; one that was split wants a heartbeat."""
        try:
            await self.leases.release([lease])
            await self.leases.renew_if_due()
        except EXPECTED as error:  # held again after the next heartbeat, and followed again
            tell(error, f"releasing {lease.feed} {lease.range.key}", 1)

    async def _finish(self, beside: list[asyncio.Future[Any]]) -> None:
        """Stop everything: pages at hand are finished within their grace, and each range is free as soon as its is."""
        for task in beside:
            task.cancel()
        followers = [following.task for following in self._following.values() if following.task is not None]
        for following in self._following.values():
            following.stop.set()
        leaving = asyncio.ensure_future(self.leases.begin_to_leave())
        await asyncio.wait([leaving, *followers], timeout=GRACE_S)
        for task in (leaving, *followers):
            task.cancel()
        await asyncio.gather(leaving, *beside, *followers, return_exceptions=True)
        self._following.clear()

    async def _hand_over(self) -> None:
        try:
            async with asyncio.timeout(GRACE_S):
                await self.leases.hand_over()
        except (*EXPECTED, TimeoutError) as error:
            tell(error, "handing the feed ranges over", 1)

    async def _idle(self, applier: Applier, stop: asyncio.Event) -> None:
        names = {feed.name for feed in self._feeds.values() if feed.applier is applier}
        while not stop.is_set():
            await pause(IDLE_S * random.uniform(0.75, 1.25), stop)  # noqa: S311 - so that processes take turns
            await repeated(partial(self._idle_once, applier, names), stop, "what waits beside the feeds", self._failed)

    async def _idle_once(self, applier: Applier, names: set[str]) -> None:
        while any(lease.feed in names for lease in self.leases.held) and self.leases.left_s > 0:
            if not await applier.idle(await applier.begin()):
                break

    async def _list_again(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await pause(LIST_S, stop)
            if not stop.is_set():
                await repeated(self._prepare, stop, "feed ranges", self._failed)

    def _failed(self, error: BaseException) -> None:
        self.stats.retries[type(error).__name__] += 1


def _connections(engine: AsyncEngine) -> int:
    """Return how many connections an engine may open, few if its pool does not say."""
    size: Callable[[], int] | None = getattr(engine.sync_engine.pool, "size", None)
    return size() if size is not None else 5
