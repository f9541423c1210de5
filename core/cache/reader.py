"""Reads through the cache: an entry if there is a good one, else the store, by one reader for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from core.cache.entries import Answer, Hit, Loading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.cache.entries import Entries, Kept
    from core.cache.stats import CacheStats

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.025
_BEHIND_S: Final = 0.001
"""How long a fill lets the loop do what its reader does next, in seconds: end the transaction, as a rule."""


class RefusedEntryError(Exception):
    """An entry is older than what is known, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What is read.

    Attributes:
        key: of its entry.
        epoch: of the phase.
        accept: makes the answer of an entry, asked for at a moment by the clock; raises RefusedEntryError.
        load: asks the store.
        keep: says what to keep of what was loaded; None: nothing.

    """

    key: str
    epoch: int
    accept: Callable[[Hit, float], Awaitable[T]]
    load: Callable[[], Awaitable[T]]
    keep: Callable[[T], Kept | None]


@dataclass(slots=True)
class _Flight:
    """A load of this process, until what it loaded is kept."""

    began: float
    landed: asyncio.Event = field(default_factory=asyncio.Event)
    is_in_vain: bool = False


class Reader:
    """Reads of one process.

    Args:
        entries: of the installation.
        stats: counts.
        wait_s: how long somebody else's load is waited for, in seconds.
        clock: monotonic seconds.

    """

    def __init__(self, entries: Entries, stats: CacheStats, wait_s: float, clock: Callable[[], float]) -> None:
        self._entries = entries
        self._stats = stats
        self._wait_s = wait_s
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._filling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for what is being filled."""
        await asyncio.gather(*self._filling)

    async def read(self, reading: Reading[T]) -> T:
        """Return the answer; raises what `load` raises, nothing else."""
        token = secrets.token_hex(8)
        give_up_at = self._clock() + self._wait_s
        pause_s = 0.0
        was_refused = False
        while True:
            if not await self._landed(reading.key, give_up_at):
                self._stats.bypassed += 1
                return await reading.load()
            asked = self._clock()
            match await self._entries.look(reading.key, token, reading.epoch):
                case Hit() as hit if not was_refused:
                    try:
                        return await self._accepted(reading, hit, asked)
                    except RefusedEntryError:
                        self._stats.stale += 1
                        await self._entries.refuse({reading.key: hit.since})
                        was_refused = True
                case Answer.LEAD:
                    return await self._lead(reading, token)
                case Loading(age_s) if age_s < self._wait_s and self._clock() < give_up_at:
                    self._stats.waits += not pause_s
                    pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, pause_s * 1.5))
                    await asyncio.sleep(pause_s)
                case _:  # whoever has loaded for that long may have been killed; and one refusal is enough
                    self._stats.bypassed += 1
                    return await reading.load()

    async def _landed(self, key: str, give_up_at: float) -> bool:
        """Wait while a reader of this process loads the same, but not behind one that takes too long.

        Returns:
            Whether to look for an entry: where nothing can be kept, those who waited would only load one by one.

        """
        if key in self._flights:
            self._stats.waits += 1
        while (flight := self._flights.get(key)) is not None:
            left_s = min(give_up_at, flight.began + self._wait_s) - self._clock()
            if left_s <= 0:
                return True
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await flight.landed.wait()
                    if flight.is_in_vain:
                        return False
        return True

    async def _accepted(self, reading: Reading[T], hit: Hit, asked: float) -> T:
        answer = await reading.accept(hit, asked)
        self._stats.hits += 1
        self._stats.negative_hits += hit.body is None
        return answer

    async def _lead(self, reading: Reading[T], token: str) -> T:
        self._stats.misses += 1
        flight = _Flight(self._clock())
        self._flights[reading.key] = flight
        kept = None
        try:
            answer = await reading.load()
            kept = reading.keep(answer)
            return answer
        finally:
            # The answer does not wait for it: who reads the same in this process does.
            task = asyncio.create_task(self._land(reading, token, kept, flight))
            self._filling.add(task)
            task.add_done_callback(self._filling.discard)

    async def _land(self, reading: Reading[T], token: str, kept: Kept | None, flight: _Flight) -> None:
        try:
            await asyncio.sleep(_BEHIND_S)
            flight.is_in_vain = kept is None
            if kept is None:
                await self._entries.release(reading.key, token)
            elif await self._entries.fill(reading.key, token, reading.epoch, kept):
                self._stats.fills += 1
            else:
                self._stats.fills_refused += 1
        finally:
            if self._flights.get(reading.key) is flight:
                del self._flights[reading.key]
            flight.landed.set()
