"""Estimates how far a feed range is behind, in seconds and in changes, and when it last came forward."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.cosmos.feed import FeedPage


@dataclass(frozen=True, slots=True)
class RangeHealth:
    """How one feed range is. Seconds; `behind` is about how many changes wait; `error` is what it is waiting for."""

    feed: str
    feed_range: str
    lag_s: float
    behind: int
    progress_age_s: float
    error: str | None


class RangeLag:
    """The estimate of one feed range.

    Seconds are counted from the `_ts` of the oldest change that has been read and not applied, and where there is none
    from when the end of the feed was last seen: also while the feed cannot be read at all.

    Args:
        feed: the feed's name.
        feed_range: the range's.
        clock: seconds since 1970.
        monotonic: seconds, for the age of the last progress.

    """

    def __init__(
        self,
        feed: str,
        feed_range: str,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._range = feed_range
        self._clock = clock
        self._monotonic = monotonic
        self._since = clock()
        self._behind = 0
        self._progress_at = monotonic()
        self._error: str | None = None

    def read(self, page: FeedPage) -> None:
        """Note a page that will be applied next."""
        self._since = min(int(page.documents[0]["_ts"]), self._clock())
        self._behind = page.behind + len(page.documents)

    def applied(self, page: FeedPage) -> None:
        """Note that it was applied."""
        self._behind = page.behind
        self._since = min(int(page.documents[-1]["_ts"]), self._clock())
        self._forward()

    def at_end(self) -> None:
        """Note that nothing is left."""
        self._behind = 0
        self._since = self._clock()
        self._forward()

    def failed(self, error: BaseException) -> None:
        """Note what keeps it from coming forward."""
        self._error = type(error).__name__

    def _forward(self) -> None:
        self._progress_at = self._monotonic()
        self._error = None

    def health(self) -> RangeHealth:
        """Return the estimate of this moment."""
        return RangeHealth(
            self._feed,
            self._range,
            max(0.0, self._clock() - self._since),
            self._behind,
            self._monotonic() - self._progress_at,
            self._error,
        )
