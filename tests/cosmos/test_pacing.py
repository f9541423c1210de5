"""Turns are given as the store can take them: fresh before backlog, fewer after a 429, within the budget."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from random import Random

import pytest

from core.cosmos.breaker import FAILURES, LONGEST_OPEN_S, PARTITIONS, PROBES, SPELL_S, Breaker, BreakerState
from core.cosmos.breaker import StoreDownError as Down
from core.cosmos.lanes import Lanes
from core.cosmos.pacing import BACKLOG_SHARE, LONGEST_PAUSE_S, Pacer, Window


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def turns(pacer: Pacer, window: Window, kinds: str) -> str:
    """Let requests wait for a single turn, fresh ones (f) and backlog (b); return the order in which they get it."""
    order: list[str] = []

    async def one(kind: str) -> None:
        reserved = await pacer.take(window, 1, backlog=kind == "b", is_next=False)
        order.append(kind)
        await asyncio.sleep(0)
        pacer.give_back(window, reserved)

    await asyncio.gather(*map(one, kinds))
    return "".join(order)


async def test_fresh_requests_go_first_and_backlog_does_not_starve() -> None:
    pacer = Pacer(1, None, Clock())
    order = await turns(pacer, pacer.window(), "b" * 10 + "f" * 20)
    assert order[0] == "b"  # it was there before anybody
    assert order[1:].count("b", 0, 20) == 20 // BACKLOG_SHARE
    assert order.count("b") == 10
    assert order.count("f") == 20


async def test_no_more_are_under_way_than_may_be_in_all_and_per_container() -> None:
    pacer = Pacer(4, None, Clock())
    narrow, wide = pacer.window(), pacer.window()
    narrow.limit = 1.0
    under_way = {narrow: 0, wide: 0}
    most = {narrow: 0, wide: 0, None: 0}

    async def one(window: Window) -> None:
        reserved = await pacer.take(window, 1, backlog=False, is_next=False)
        under_way[window] += 1
        most[window] = max(most[window], under_way[window])
        most[None] = max(most[None], sum(under_way.values()))
        await asyncio.sleep(0.001)
        under_way[window] -= 1
        pacer.give_back(window, reserved)

    await asyncio.gather(*(one(window) for window in [narrow, wide] * 20))
    assert most == {narrow: 1, wide: 3, None: 4}
    assert narrow.under_way == wide.under_way == 0


async def test_a_document_that_was_begun_is_finished_before_another_is() -> None:
    pacer = Pacer(1, None, Clock())
    window = pacer.window()
    first = await pacer.take(window, 1, backlog=False, is_next=False)
    others = [asyncio.ensure_future(pacer.take(window, 1, backlog=False, is_next=is_next)) for is_next in (False, True)]
    await asyncio.sleep(0)
    pacer.give_back(window, first)
    await asyncio.sleep(0)
    assert [other.done() for other in others] == [False, True]
    pacer.give_back(window, others[1].result())
    pacer.give_back(window, await others[0])


async def test_a_request_that_is_cancelled_takes_no_turn_with_it() -> None:
    pacer = Pacer(1, None, Clock())
    window = pacer.window()
    first = await pacer.take(window, 1, backlog=False, is_next=False)
    waiting, granted = (asyncio.ensure_future(pacer.take(window, 1, backlog=False, is_next=False)) for _ in range(2))
    await asyncio.sleep(0)
    waiting.cancel()
    pacer.give_back(window, first)
    granted.cancel()  # at the very moment at which it has its turn
    await asyncio.gather(waiting, granted, return_exceptions=True)
    assert window.under_way == 0
    async with asyncio.timeout(1):
        pacer.give_back(window, await pacer.take(window, 1, backlog=True, is_next=False))


async def test_requests_that_were_turned_away_together_narrow_the_window_once() -> None:
    clock = Clock()
    pacer = Pacer(32, None, clock)
    window = pacer.window()
    began_at = clock.now
    clock.now += 1
    for _ in range(20):
        pacer.throttled(window, began_at, 0.01)
    assert window.limit == 16
    clock.now += 1
    pacer.throttled(window, clock.now, 0.01)
    assert window.limit == 8
    for _ in range(10_000):
        window.widen()
    assert window.limit == 32


async def test_a_container_that_one_request_at_a_time_is_too_much_for_waits_as_it_asked() -> None:
    pacer = Pacer(2, None, time.monotonic)
    window = pacer.window()
    for _ in range(2):
        pacer.throttled(window, time.monotonic(), 0.05)
    began = time.monotonic()
    pacer.give_back(window, await pacer.take(window, 1, backlog=False, is_next=False))
    assert 0.04 <= time.monotonic() - began < LONGEST_PAUSE_S


async def test_a_budget_of_request_units_is_kept_and_fresh_requests_go_first_in_it() -> None:
    pacer = Pacer(8, 1000, time.monotonic)
    window = pacer.window()
    order: list[bool] = []
    began = time.monotonic()

    async def one(backlog: bool) -> None:
        reserved = await pacer.take(window, 1, backlog=backlog, is_next=False)
        order.append(backlog)
        pacer.spend(20.0)
        await asyncio.sleep(0)
        pacer.give_back(window, reserved)

    await asyncio.gather(*(one(backlog=number < 35) for number in range(70)))
    # 1,400 request units, of which the first second's were there.
    assert 0.3 < time.monotonic() - began < 2
    assert pacer.used_ru == 1400
    assert sum(order[8:40]) <= 32 // BACKLOG_SHARE


def breaker(clock: Clock) -> Breaker:
    return Breaker("Notes", clock, Random(7))


def fail(of: Breaker, clock: Clock, times: int = FAILURES, partitions: int = PARTITIONS) -> None:
    began_at = clock.now
    clock.now += SPELL_S
    for number in range(times):
        of.failed("status 503", began_at, f"p{number % partitions}")


async def test_a_breaker_opens_when_nothing_works_and_only_then() -> None:
    clock = Clock()
    for arrange in ("few", "one partition", "works between"):
        closed = breaker(clock)
        if arrange == "works between":
            fail(closed, clock, FAILURES - 1)
            closed.worked()
        fail(closed, clock, FAILURES - 1 if arrange != "one partition" else 50, 1 if arrange == "one partition" else 3)
        assert closed.is_closed, arrange
        assert not await closed.admit()
    brief = breaker(clock)
    for number in range(50):
        brief.failed("status 503", clock.now, f"p{number}")
    assert brief.is_closed  # not for long enough
    opened = breaker(clock)
    fail(opened, clock)
    assert opened.state is BreakerState.OPEN
    with pytest.raises(Down, match=r"'Notes' does nothing any more \(status 503\)"):
        await opened.admit()


async def test_what_waited_for_its_turn_while_a_container_died_is_not_sent() -> None:
    lane = Lanes(1).of("Notes")
    sent: list[int] = []
    first_may_end = asyncio.Event()

    async def request(number: int) -> None:
        sent.append(number)
        await first_may_end.wait()

    waiting = [
        asyncio.ensure_future(lane.send(partial(request, number), lambda: None, f"p{number}")) for number in range(5)
    ]
    await asyncio.sleep(0)
    lane.breaker._open()
    first_may_end.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert sent == [0]
    assert [type(outcome) for outcome in outcomes] == [type(None)] + [Down] * 4
    assert lane.window.under_way == 0


async def test_a_breaker_that_is_half_open_lets_few_through_and_one_that_works_closes_it() -> None:
    clock = Clock()
    half = breaker(clock)
    fail(half, clock)
    clock.now += 1
    probes = [asyncio.ensure_future(half.admit()) for _ in range(PROBES + 5)]
    await asyncio.sleep(0)
    assert sum(probe.done() for probe in probes) == PROBES
    half.leave()  # one that found nothing out makes room for another
    await asyncio.sleep(0)
    assert sum(probe.done() for probe in probes) == PROBES + 1
    half.worked()
    assert [await probe for probe in probes] == [True] * (PROBES + 1) + [False] * 4
    assert half.is_closed


async def test_a_breaker_stays_open_ever_longer_while_nothing_works() -> None:
    clock = Clock()
    dead = breaker(clock)
    fail(dead, clock)
    waits = []
    for _ in range(8):
        with pytest.raises(Down) as caught:
            await dead.admit()
        assert caught.value.retry_after_s is not None
        waits.append(caught.value.retry_after_s)
        clock.now += caught.value.retry_after_s
        assert await dead.admit()
        late = asyncio.ensure_future(dead.admit())
        others = [await dead.admit() for _ in range(PROBES - 2)]
        assert all(others)
        await late
        for _ in range(PROBES):
            dead.failed("status 503", clock.now, "p")
            dead.leave()
    assert waits[0] < 0.5 < waits[3] < waits[-1] <= LONGEST_OPEN_S
