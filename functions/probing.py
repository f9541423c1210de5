"""What the probes of all processes share: one question at a time, its answer given again while it is fresh."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from core.errors import CrossfeedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

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


class Probe(ABC, Generic[V_co]):
    """The readiness and the figures of one process.

    Args:
        clock: monotonic seconds.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._verdict: tuple[float, V_co] | None = None
        self._asking = asyncio.Lock()

    async def verdict(self) -> V_co:
        """Ask process and stores, unless that was done just now. Takes TIMEOUT_S at most; raises nothing."""
        async with self._asking:
            if self._verdict is None or self._clock() - self._verdict[0] > FRESH_S:
                self._verdict = self._clock(), await self._ask()
            return self._verdict[1]

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
