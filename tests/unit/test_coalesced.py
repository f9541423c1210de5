"""A question that many wait for is asked once, and its answer is not older than their call."""

from __future__ import annotations

import asyncio

import pytest

from core.coalesced import Coalesced
from core.errors import PrimaryMovedError, StoreUnavailableError


class Oracle:
    """Answers with the number of the question, when it is told to, or with what it is told to raise."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return number


async def calls(ask: Coalesced[int], count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(ask()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_who_comes_while_it_is_asked_shares_the_next_answer() -> None:
    oracle = Oracle()
    ask = Coalesced(oracle)
    first, *others = await calls(ask, 5)
    oracle.may_answer.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 4
    assert await ask() == 3  # what was answered before it came is not taken


async def test_an_error_is_shared_as_well_and_forgotten_with_the_next_question() -> None:
    oracle = Oracle()
    ask = Coalesced(oracle)
    oracle.error = StoreUnavailableError("down")
    tasks = await calls(ask, 6)
    oracle.may_answer.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 6
    assert oracle.asked == 2
    oracle.error = None
    assert await ask() == 3


async def test_who_gives_up_takes_nobody_along() -> None:
    oracle = Oracle()
    ask = Coalesced(oracle)
    first, *others = await calls(ask, 3)
    first.cancel()
    await asyncio.sleep(0)
    oracle.may_answer.set()
    assert await asyncio.gather(*others) == [2, 2]
    assert first.cancelled()


async def test_a_fault_of_the_program_is_raised_where_it_happened() -> None:
    oracle = Oracle()
    ask = Coalesced(oracle)
    oracle.may_answer.set()
    oracle.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await ask()
    oracle.error = PrimaryMovedError()
    with pytest.raises(PrimaryMovedError):
        await ask()
