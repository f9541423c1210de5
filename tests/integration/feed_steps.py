"""What the tests of processors share: leases whose time is the test's, and an applier that remembers what it got."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from changefeed.feed_leases import FeedLeases
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.feed_leases import FeedLease
    from changefeed.ports import Acknowledge
    from core.content import Document

LEASE_S = 10.0


@dataclass
class Clocked:
    """Processors in one process. Time passes when the test says so, for their clocks and for the leases in Postgres."""

    engine: AsyncEngine
    now: float = 0.0
    processors: dict[int, FeedLeases] = field(default_factory=dict)

    def processor(self, number: int, *feeds: str) -> FeedLeases:
        """Return one that is there, or a new one that can read these feeds."""
        if number not in self.processors:
            clock: Callable[[], float] = lambda: self.now  # noqa: E731 - the name says more
            self.processors[number] = FeedLeases(self.engine, feeds or ("f",), LEASE_S, clock, f"processor {number}")
        return self.processors[number]

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        await run(
            self.engine,
            f"UPDATE crossfeed.feed_processor SET expires_at = expires_at - make_interval(secs => {seconds})",
        )

    async def settle(self) -> None:
        """Let everyone beat and let its surplus go until nothing changes any more."""
        for _ in range(4):
            for processor in self.processors.values():
                await processor.renew()
                await processor.release(processor.surplus)

    def acting(self) -> list[FeedLease]:
        """Return what is held by processors that may act now."""
        return [lease for processor in self.processors.values() if processor.left_s > 0 for lease in processor.held]


async def give_ranges(engine: AsyncEngine, feed: str, count: int) -> None:
    """Give a feed so many ranges."""
    bounds = ["", *(f"{number:02X}" for number in range(1, count)), "FF"]
    rows = ", ".join(f"('{feed}', '{lower}', '{upper}')" for lower, upper in pairwise(bounds))
    await run(engine, f"INSERT INTO crossfeed.feed_range (feed, lower_bound, upper_bound) VALUES {rows}")


class Remembering:
    """An applier that writes nothing but what acknowledges its pages; `before` may fail, or wait."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.seen: dict[str, list[Document]] = defaultdict(list)
        self.pages: list[int] = []
        self.idled = 0
        self.before: Callable[[str, Sequence[Document]], Awaitable[None]] | None = None

    async def begin(self) -> None:
        """See Applier."""

    async def apply(self, container: str, documents: Sequence[Document], begun: Any, acknowledge: Acknowledge) -> None:
        """See Applier."""
        if self.before is not None:
            await self.before(container, documents)
        async with self._engine.begin() as connection:
            await acknowledge(connection)
        for document in documents:
            self.seen[document["id"]].append(document)
        self.pages.append(len(documents))

    async def idle(self, begun: Any) -> bool:
        """See Applier."""
        self.idled += 1
        return False

    def counts(self) -> Mapping[str, int]:
        """See Applier."""
        return {"idled": self.idled}
