"""Passes what changed on to the cache, so that nobody who moves documents ever waits long for Redis, or fails by it.

Whoever writes through Crossfeed tells the cache by himself, after his commit. Relay and mirror tell it once more: that
reaches what was written by others (raw SQL, a legacy application), and makes good what a writer could not tell. A
notice that is lost here as well (both could not reach Redis, or died in between) is bounded by the entries' life.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from core.cache.changes import Changed, Invalidator

log = structlog.get_logger()

WITHIN_S: Final = 0.5
"""How long a page of changes may take to be told, in seconds: the pages behind it wait no longer for Redis."""

PART: Final = 100
"""How many changes are told at a time: readers have their turn in between, and each part its own time."""


class Notices:
    """The way to the cache, for those who move documents. Safe to share between tasks.

    Args:
        invalidator: the cache; None where there is none: then nothing is told.
        within_s: how long one call may take, in seconds.

    """

    def __init__(self, invalidator: Invalidator | None = None, within_s: float = WITHIN_S) -> None:
        self.missed = 0
        """How many changes the cache was not told of in time; their entries live on until their own end."""
        self._invalidator = invalidator
        self._within_s = within_s

    @property
    def is_on(self) -> bool:
        """Whether there is a cache: what is told otherwise need not be put together."""
        return self._invalidator is not None

    async def tell(self, changes: Sequence[Changed]) -> None:
        """Tell the cache of changes that are committed; returns in time and raises nothing, whatever Redis does."""
        if self._invalidator is None or not changes:
            return
        told = 0
        try:
            async with asyncio.timeout(self._within_s):
                while told < len(changes):
                    await self._invalidator.changed(changes[told : told + PART])
                    told += PART
        except TimeoutError:
            self.missed += len(changes) - told
            log.warning("cache.notice_too_slow", missed=len(changes) - told, within_s=self._within_s)
        except Exception as error:  # noqa: BLE001 - a fault of the cache must not stop what moves documents
            self.missed += len(changes) - told
            log.error("cache.notice_failed", missed=len(changes) - told, error=type(error).__name__)  # noqa: TRY400 - values

    @asynccontextmanager
    async def meanwhile(self, changes: Sequence[Changed]) -> AsyncIterator[None]:
        """Tell the cache while the block runs; at its end that is done with."""
        if self._invalidator is None or not changes:
            yield
            return
        telling = asyncio.ensure_future(self.tell(changes))
        try:
            yield
        finally:
            await telling
