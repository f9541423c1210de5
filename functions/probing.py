"""What the probes of all processes share: one question at a time, its answer given again while it is fresh."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from core.errors import CrossfeedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from prometheus_client import CollectorRegistry

T = TypeVar("T")

TIMEOUT_S: Final = 4.0
"""How long a store may take to answer before it counts as away; probes usually wait 5 s or longer."""

FRESH_S: Final = 1.0
"""How long an answer is given again, so that many probes cost the stores no more than one."""


class Judged(Protocol):
    """What is wrong with a process, nothing when it is ready."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences for an operator."""
        ...


V_co = TypeVar("V_co", bound=Judged, covariant=True)


class Fresh(Generic[T]):
    """One question at a time, whose answer is given again while it is fresh.

    Args:
        ask: the question.
        clock: monotonic seconds.

    """

    def __init__(self, ask: Callable[[], Awaitable[T]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._answer: tuple[float, T] | None = None
        self._asking = asyncio.Lock()

    async def __call__(self) -> T:
        """Return an answer that is FRESH_S old at most; raises what the question raises."""
        async with self._asking:
            if self._answer is None or self._clock() - self._answer[0] > FRESH_S:
                self._answer = self._clock(), await self._ask()
            return self._answer[1]

    def forget(self) -> None:
        """Ask again the next time."""
        self._answer = None


class Probe(ABC, Generic[V_co]):
    """The readiness and the figures of one process.

    Args:
        clock: monotonic seconds.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._verdict = Fresh(self._ask, clock)

    async def verdict(self) -> V_co:
        """Ask process and stores, unless that was done just now. Takes TIMEOUT_S at most; raises nothing."""
        return await self._verdict()

    @abstractmethod
    async def _ask(self) -> V_co:
        """Judge."""

    @abstractmethod
    async def registry(self) -> CollectorRegistry:
        """Return the figures of this moment.

        Raises:
            ImportError: the extra `http` is not installed.

        """


async def answer(who: str, question: Coroutine[None, None, T], problems: list[str]) -> T | None:
    """Return what a store says; None and one more problem if it says nothing in time."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await question
    except TimeoutError:
        problems.append(f"{who} does not answer within {TIMEOUT_S:.0f} s")
    except CrossfeedError as error:
        problems.append(f"{who}: {error}")
    return None
