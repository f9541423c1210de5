"""Tells the entries what was written, and again later if Redis did not answer."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from core.cache.entries import Change, Entries
    from core.cache.stats import CacheStats

log = structlog.get_logger()

PAGE: Final = 500
MOST_UNTOLD: Final = 20_000
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5


class Telling:
    """What one process tells the cache.

    Args:
        entries: of the installation.
        stats: counts.
        keep_s: how long a change matters, in seconds: as long as an entry of before it may live.
        clock: monotonic seconds.

    """

    def __init__(self, entries: Entries, stats: CacheStats, keep_s: float, clock: Callable[[], float]) -> None:
        self._entries = entries
        self._stats = stats
        self._keep_s = keep_s
        self._clock = clock
        self._untold: deque[tuple[float, Change]] = deque()
        self._is_away = False
        self._again: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[int | None]] = set()

    async def close(self) -> None:
        """Try a last time to tell what was not told."""
        await asyncio.gather(*self._under_way)
        if self._again is not None:
            self._again.cancel()
            await asyncio.gather(self._again, return_exceptions=True)
            await self._retell()
            self._lose(len(self._untold))

    async def tell(self, changes: Sequence[Change]) -> int | None:
        """Return how many entries were taken away; None if that is not known, and is done as soon as it can be.

        A caller who is cancelled leaves while it goes on: what was committed must be told.
        """
        task = asyncio.create_task(self._tell(changes))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _tell(self, changes: Sequence[Change]) -> int | None:
        taken: int | None = 0
        for begin in range(0, len(changes), PAGE):
            page = changes[begin : begin + PAGE]
            # While Redis is known to be away, nobody waits for it but who tries again.
            answers = None if self._is_away else await self._entries.change(page)
            untold = self._untold_of(page, answers)
            if untold:
                now = self._clock()
                self._remember((now, change) for change in untold)
                taken = None
            elif taken is not None:
                taken += sum(answer or 0 for answer in answers or ())
        return taken

    def _untold_of(self, page: Sequence[Change], answers: Sequence[int | None] | None) -> list[Change]:
        """Return those changes of a page that Redis did not answer, or refused."""
        self._is_away = answers is None
        untold = [change for change, answer in zip(page, answers or [None] * len(page), strict=True) if answer is None]
        self._stats.invalidations += len(page) - len(untold)
        return untold

    def _remember(self, changes: Iterable[tuple[float, Change]]) -> None:
        # Told late, it may come after what came after it.
        self._untold.extend((at, replace(change, stamp=None) if change.instead else change) for at, change in changes)
        too_many = max(0, len(self._untold) - MOST_UNTOLD)
        for _ in range(too_many):
            self._untold.popleft()
        self._lose(too_many)
        if self._again is None:
            self._again = asyncio.create_task(self._until_told())

    async def _until_told(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._untold:
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            await self._retell()
        self._again, self._is_away = None, False

    async def _retell(self) -> None:
        """Try each once: what is refused does not hold up the others, and is given up when it matters no more."""
        left = len(self._untold)
        while left > 0 and self._untold:
            oldest = self._clock() - self._keep_s
            page = [self._untold.popleft() for _ in range(min(PAGE, left, len(self._untold)))]
            left -= len(page)
            mattering = [(at, change) for at, change in page if at >= oldest]
            self._lose(len(page) - len(mattering))
            changes = [change for _, change in mattering]
            if not changes:
                continue
            try:
                answers = await self._entries.change(changes)
            except asyncio.CancelledError:
                self._untold.extendleft(reversed(mattering))  # whoever closes counts what is left
                raise
            untold = {id(change) for change in self._untold_of(changes, answers)}
            self._untold.extend((at, change) for at, change in mattering if id(change) in untold)
            if self._is_away:
                return

    def _lose(self, count: int) -> None:
        if count:
            self._stats.invalidations_lost += count
            log.warning("cache.invalidations_lost", changes=count)
