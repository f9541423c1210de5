"""Sends states to Cosmos DB, concurrently, and remembers what was delivered until the cursor has moved.

Without that memory a store that throttles would never be done with a page: every repetition would spend the allowance
on reading again what the one before had written.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from core.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.cosmos.publish import Outcome, Publish
    from core.identity import Identity
    from core.stamp import Stamp


class PassTooOldError(TransientError):
    """The pass slept so long that its states may be older than the tombstones that would refuse them; read again."""


class Sink(Protocol):
    """The guarded write (core.cosmos.guarded.GuardedWriter)."""

    async def write(self, items: Sequence[Publish]) -> list[Outcome]:
        """Write states, never an older one over a newer one; repeating it is harmless.

        Raises:
            TransientError: infrastructure failed.

        """
        ...


class Delivery:
    """Sends the states of one page after the other.

    Args:
        sink: the guarded write.
        concurrency: how many documents are under way at the same time.
        max_age_s: how old a loaded state may be when it is sent, in seconds.
        clock: seconds that count suspend.

    """

    def __init__(self, sink: Sink, concurrency: int, max_age_s: float, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._lanes = asyncio.Semaphore(concurrency)
        self._max_age_s = max_age_s
        self._clock = clock
        self._delivered: dict[Identity, tuple[Stamp, Outcome]] = {}

    async def send(
        self, items: Sequence[Publish], loaded_at: float, on_delivered: Callable[[Identity, Outcome], None]
    ) -> dict[Identity, Outcome]:
        """Send states, one per identity, that were loaded at `loaded_at`; return what became of each.

        `on_delivered` is called as each arrives. May be repeated: what was delivered before is not sent again.

        Raises:
            PassTooOldError: the states are too old to be sent; load them again.
            TransientError: infrastructure failed; what was under way has ended, the rest was not sent.

        """
        broken = asyncio.Event()

        async def one(item: Publish) -> None:
            async with self._lanes:
                if broken.is_set():
                    return
                try:
                    self._check_age(loaded_at)  # as late as possible: the process may have been stopped at any moment
                    [outcome] = await self._sink.write([item])
                except BaseException:
                    broken.set()
                    raise
                self._delivered[item.identity] = (item.stamp, outcome)
                on_delivered(item.identity, outcome)

        open_items = [item for item in items if not self._is_delivered(item)]
        results = await asyncio.gather(*map(one, open_items), return_exceptions=True)
        if failures := [result for result in results if result is not None]:
            raise _worst(failures)
        return {item.identity: self._delivered[item.identity][1] for item in items}

    def forget(self) -> None:
        """Drop the memory: the cursor has moved past everything in it."""
        self._delivered.clear()

    def _check_age(self, loaded_at: float) -> None:
        if self._clock() - loaded_at > self._max_age_s:
            msg = f"the pass is older than {self._max_age_s:g} s, half the life of a tombstone"
            raise PassTooOldError(msg)

    def _is_delivered(self, item: Publish) -> bool:
        known = self._delivered.get(item.identity)
        return known is not None and known[0] == item.stamp


def _worst(failures: list[BaseException]) -> BaseException:
    """Choose what to raise: a fault of the program before a transient failure, then the longest wait asked for."""
    for error in failures:
        if not isinstance(error, TransientError):
            return error
    return max(failures, key=lambda error: getattr(error, "retry_after_s", None) or 0.0)
