"""What the processor's pace and lag make of time, without any store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from changefeed.lag import RangeHealth, RangeLag
from changefeed.pressure import Pressure
from core.cosmos.feed import FeedPage
from core.pace import SMALLEST_PAGE, TARGET_S, Pace


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_slow_batches_become_smaller_and_then_rarer_and_quick_ones_larger_again() -> None:
    pace = Pace(100)
    sizes = []
    for _ in range(5):
        pace.took(TARGET_S * 3)
        sizes.append(pace.page_size)
    assert sizes == [50, 25, 12, SMALLEST_PAGE, SMALLEST_PAGE]
    assert pace.pause_s == TARGET_S * 3
    pace.took(TARGET_S * 0.7)
    assert (pace.page_size, pace.pause_s) == (SMALLEST_PAGE, 0.0)
    for _ in range(5):
        pace.took(TARGET_S / 10)
    assert pace.page_size == 100


def test_a_page_that_is_small_anyway_is_never_made_larger() -> None:
    pace = Pace(3)
    pace.took(TARGET_S * 2)
    assert pace.page_size == 3


async def test_batches_leave_connections_to_heartbeats_and_waiting_for_one_counts_as_slowness() -> None:
    clock = Clock()
    pressure, hanging, waiting = Pressure(5, clock), Pace(100), Pace(100)
    release = asyncio.Event()

    async def batch(pace: Pace) -> None:
        async with pressure.batch(pace):
            await release.wait()

    tasks = [asyncio.ensure_future(batch(pace)) for pace in (hanging, waiting)]
    await asyncio.sleep(0)
    assert pressure.under_way == 1
    clock.now += TARGET_S * 4
    release.set()
    await asyncio.gather(*tasks)
    assert waiting.page_size == 50


@pytest.mark.parametrize("error", [None, TimeoutError()])
def test_lag_is_the_age_of_what_waits_and_grows_while_the_feed_cannot_be_read(error: Exception | None) -> None:
    clock, monotonic = Clock(), Clock(0.0)
    lag = RangeLag("f", "-FF", clock, monotonic)
    lag.at_end()
    clock.now, monotonic.now = 1007.0, 7.0
    if error is not None:
        lag.failed(error)
    health = lag.health()
    assert (health.lag_s, health.behind, health.progress_age_s) == (7.0, 0, 7.0)
    assert health.error == (None if error is None else "TimeoutError")
    page = FeedPage(({"_ts": 1001}, {"_ts": 1005}), "c", behind=10)
    lag.read(page)
    assert (lag.health().lag_s, lag.health().behind) == (6.0, 12)
    lag.applied(page)
    assert lag.health() == RangeHealth("f", "-FF", lag_s=2.0, behind=10, progress_age_s=0.0, error=None)
    lag.at_end()
    assert (lag.health().lag_s, lag.health().behind) == (0.0, 0)


def test_a_clock_of_the_store_that_is_ahead_makes_no_negative_lag() -> None:
    lag = RangeLag("f", "-FF", Clock(), Clock())
    lag.read(FeedPage(({"_ts": 5000},), "c"))
    assert lag.health().lag_s == 0.0
