"""Follows one feed range of one container: page, mirror, checkpoint, page.

The phase must be read before the documents are. It is kept from page to page, because the guarded write compares its
epoch under the tables' locks: as long as they agree nobody has switched since it was read, and an idle follower asks
Postgres nothing.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from changefeed.checkpoints import Step, move_checkpoint, read_checkpoint
from core.cosmos.feed import pages
from core.postgres.failures import translated
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.cosmos.aio import ContainerProxy
    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.mirror import Mirror
    from changefeed.stats import ProcessorStats
    from core.cosmos.feed import FeedPage, FeedRange
    from core.mapping import EntityMapping
    from core.phases import PhaseRow


class Follower:
    """The reader of one feed range.

    Args:
        engine: for the checkpoint and the phase.
        mirror: applies the pages.
        mapping: the container's mapping.
        container: the container.
        feed_range: one of its ranges.
        page_size: about how many documents one transaction mirrors.
        stats: where it counts what it did.
        clock: seconds since 1970, for the lag.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        engine: AsyncEngine,
        mirror: Mirror,
        mapping: EntityMapping[Any],
        container: ContainerProxy,
        feed_range: FeedRange,
        *,
        page_size: int,
        stats: ProcessorStats,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._mirror = mirror
        self._mapping = mapping
        self._container = container
        self._range = feed_range
        self._page_size = page_size
        self._stats = stats
        self._clock = clock
        self._phase: PhaseRow | None = None
        self._checkpoint: str | None = None
        self._continuation: str | None = None

    @property
    def name(self) -> str:
        """Container and feed range, for logs."""
        return f"{self._mapping.container} {self._range.key}"

    def forget(self) -> None:
        """Start again from what is recorded, phase and checkpoint, as after any error."""
        self._phase = None

    async def catch_up(self, is_stopping: Callable[[], bool]) -> bool:
        """Mirror page by page until nothing is left or it is time to stop; return whether there was anything.

        Raises:
            PrimaryMovedError: the phase has moved since it was read.
            ConcurrencyError: another processor is at the same range, or a deadlock was broken.
            StoreUnavailableError: one of the stores did not answer.

        """
        phase = self._phase or await self._load()
        moved = False
        source = pages(self._container, self._range, self._continuation, self._page_size)
        async with aclosing(source) as found:
            async for page in found:
                # An empty page writes nothing: without its checkpoint it would only be read again.
                if page.documents:
                    await self._apply(page, phase)
                    moved = True
                self._continuation = page.continuation
                if is_stopping():
                    break
        return moved

    async def _load(self) -> PhaseRow:
        with translated(f"reading the phase and the checkpoint of {self.name}"):
            async with self._engine.connect() as connection:
                self._checkpoint = await read_checkpoint(connection, self._mapping.container, self._range.key)
                self._phase = await read_phase(connection)
        self._continuation = self._checkpoint
        return self._phase

    async def _apply(self, page: FeedPage, phase: PhaseRow) -> None:
        step = Step(self._mapping.container, self._range.key, self._checkpoint, page.continuation, phase.epoch)
        outcome = await self._mirror.apply(self._mapping, page.documents, phase, partial(move_checkpoint, step=step))
        self._checkpoint = page.continuation
        now = self._clock()
        self._stats.add(outcome, len(page.documents), (now - int(item["_ts"]) for item in page.documents))
