"""Decides when the next request may be sent: as many at once as Cosmos DB takes, within a budget, fresh ones first.

Concurrency follows the store, per container: a 429 halves how many requests are under way, and every request that was
carried out adds its share of a fraction (additive increase, multiplicative decrease, as TCP does). What a replay or a
long outage left behind is *backlog*: it gets a turn where no fresh request waits, and every eighth one where they do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG_SHARE: Final = 8
"""Of so many turns one goes to backlog however many fresh requests wait: it yields, it does not starve."""

_FIRST_GUESS_RU: Final = 8.0
"""What a write is taken to cost before the first was answered, in request units."""

WIDENING: Final = 0.25
"""By how much the window grows while as many requests are carried out as it holds."""

LONGEST_PAUSE_S: Final = 1.0
"""How long a whole container waits at most, in seconds: it may be one busy partition of many."""

_Waiting = deque[tuple[asyncio.Future[None], float]]


class Window:
    """How many requests of one container may be under way at the same time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.under_way = 0
        self.fresh: _Waiting = deque()
        self.backlog: _Waiting = deque()
        self.is_paused = False
        self._narrowed_at = float("-inf")

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent."""
        return not self.is_paused and self.under_way < int(self.limit)

    def widen(self) -> None:
        """A request was carried out."""
        self.limit = min(float(self.most), self.limit + WIDENING / self.limit)

    def narrow(self, began_at: float, now: float) -> bool:
        """A request that `began_at` was answered 429; return whether one at a time are too many already.

        Those that were sent beside it tell nothing new.
        """
        if began_at < self._narrowed_at:
            return False
        is_narrowest = self.limit < 2  # noqa: PLR2004 - one at a time
        self.limit = max(1.0, self.limit / 2)
        self._narrowed_at = now
        return is_narrowest


class Pacer:
    """Gives turns to requests of all containers.

    Args:
        most: how many requests may be under way at the same time, in all.
        ru_per_second: how many request units a second may be used, None for any number.
        clock: monotonic seconds.

    """

    def __init__(self, most: int, ru_per_second: float | None, clock: Callable[[], float]) -> None:
        self.used_ru = 0.0
        self._most = most
        self._rate = ru_per_second
        self._clock = clock
        self._under_way = 0
        self._windows: list[Window] = []
        self._turns = 0
        self._level = ru_per_second or 0.0  # holds what one second brings, and may be overdrawn by one request
        self._filled_at = clock()
        self._typical_ru = _FIRST_GUESS_RU
        self._timer: asyncio.TimerHandle | None = None

    def window(self) -> Window:
        """Return the window of one more container."""
        self._windows.append(Window(self._most))
        return self._windows[-1]

    async def take(self, window: Window, operations: int, *, backlog: bool, is_next: bool) -> float:
        """Wait for a turn; return the request units that are set aside for it until it is given back.

        Args:
            window: of its container.
            operations: how many documents the request is about.
            backlog: whether it yields to fresh requests.
            is_next: whether it goes before those that wait already, because its document was begun before them.

        """
        reserved = self._typical_ru * operations if self._rate else 0.0
        future = asyncio.get_running_loop().create_future()
        queue = window.backlog if backlog else window.fresh
        if is_next:
            queue.appendleft((future, reserved))
        else:
            queue.append((future, reserved))
        self._grant()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(window, reserved)
            raise
        return reserved

    def give_back(self, window: Window, reserved: float) -> None:
        """End a turn."""
        window.under_way -= 1
        self._under_way -= 1
        self._level += reserved
        self._grant()

    def throttled(self, window: Window, began_at: float, retry_after_s: float | None) -> None:
        """Count a 429; where one at a time are too many the whole container waits as long as it was asked to."""
        if window.narrow(began_at, self._clock()) and retry_after_s and not window.is_paused:
            window.is_paused = True
            asyncio.get_running_loop().call_later(min(retry_after_s, LONGEST_PAUSE_S), self._resume, window)

    def _resume(self, window: Window) -> None:
        window.is_paused = False
        self._grant()

    def spend(self, charge: float, operations: int = 1) -> None:
        """Count the request units that an answer charged."""
        self.used_ru += charge
        self._level -= charge
        self._typical_ru += (charge / operations - self._typical_ru) / 16

    def _grant(self) -> None:
        while self._under_way < self._most and (window := self._next()) is not None:
            if self._rate and not self._is_filled(self._rate):
                return
            self._turns += 1
            queue = window.fresh or window.backlog
            if window.backlog and self._turns % BACKLOG_SHARE == 0:
                queue = window.backlog
            future, reserved = queue.popleft()
            if future.done():
                continue
            self._under_way += 1
            window.under_way += 1
            self._level -= reserved
            future.set_result(None)

    def _next(self) -> Window | None:
        """Choose the container whose turn it is: fresh requests first, the containers in rotation."""
        with_room = [window for window in self._windows if window.has_room and (window.fresh or window.backlog)]
        if not with_room:
            return None
        with_fresh = [window for window in with_room if window.fresh]
        if (self._turns + 1) % BACKLOG_SHARE == 0:
            with_fresh = [window for window in with_room if window.backlog] or with_fresh
        among = with_fresh or with_room
        return among[self._turns % len(among)]

    def _is_filled(self, rate: float) -> bool:
        now = self._clock()
        self._level = min(rate, self._level + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._level > 0:
            return True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(0.001 - self._level / rate, self._on_timer)
        return False

    def _on_timer(self) -> None:
        self._timer = None
        self._grant()
