"""Stops hammering a container that does nothing any more, and finds out carefully whether it is back.

closed     everything is sent. When FAILURES requests of PARTITIONS logical partitions have failed, for at least
           SPELL_S, and not one document has got its outcome meanwhile, it opens. A document that cannot be written
           while others are opens nothing.
open       nothing is sent, for a time that doubles with each failed attempt to go on.
half-open  PROBES requests at a time are sent. One document that gets its outcome closes it; PROBES failures open it
           again. They are several, drawn at random, because one may be of the only partition that is down.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog

from core.cosmos.failures import CosmosUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_log = structlog.get_logger()

FAILURES: Final = 5
PARTITIONS: Final = 3
SPELL_S: Final = 1.0
PROBES: Final = 4
FIRST_OPEN_S: Final = 0.5
LONGEST_OPEN_S: Final = 15.0


class BreakerState(StrEnum):
    """See the module."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class StoreDownError(CosmosUnavailableError):
    """A container does nothing any more; `retry_after_s` is when it will be tried again."""


class Breaker:
    """The circuit breaker of one container.

    Args:
        container: its name.
        clock: monotonic seconds.
        random: spreads the attempts of many relays.

    """

    def __init__(self, container: str, clock: Callable[[], float], random: Random) -> None:
        self.state = BreakerState.CLOSED
        self._container = container
        self._clock = clock
        self._random = random
        self._failures = 0
        self._partitions: set[str] = set()
        self._failing_since = 0.0
        self._open_s = FIRST_OPEN_S
        self._open_until = 0.0
        self._reason = ""
        self._probing = 0
        self._changed = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether everything may be sent."""
        return self.state is BreakerState.CLOSED

    async def admit(self) -> bool:
        """Wait until a request may be sent; return whether it is a probe, which must `leave`.

        Raises:
            StoreDownError: nothing may be sent.

        """
        while True:
            match self.state:
                case BreakerState.CLOSED:
                    return False
                case BreakerState.OPEN if self._clock() < self._open_until:
                    wait_s = self._open_until - self._clock()
                    msg = f"container {self._container!r} does nothing any more ({self._reason})"
                    raise StoreDownError(msg, wait_s)
                case BreakerState.OPEN:
                    self._turn(BreakerState.HALF_OPEN)
                    self._reset()
                case BreakerState.HALF_OPEN if self._probing < PROBES:
                    self._probing += 1
                    return True
                case BreakerState.HALF_OPEN:
                    await self._changed.wait()

    def leave(self) -> None:
        """A probe has ended."""
        self._probing -= 1
        self._notify()

    def worked(self) -> None:
        """A document has got its outcome."""
        self._reset()
        if self.state is not BreakerState.CLOSED:
            self._open_s = FIRST_OPEN_S
            self._turn(BreakerState.CLOSED)

    def failed(self, reason: str, began_at: float, partition: str) -> None:
        """A request that `began_at` was not carried out, and not because of its document or of its size."""
        self._failing_since = min(self._failing_since, began_at) if self._failures else began_at
        self._failures += 1
        self._reason = reason
        if len(self._partitions) < PARTITIONS:
            self._partitions.add(partition)
        match self.state:
            case BreakerState.CLOSED:
                if (
                    self._failures >= FAILURES
                    and len(self._partitions) >= PARTITIONS
                    and self._clock() - self._failing_since >= SPELL_S
                ):
                    self._open()
            case BreakerState.HALF_OPEN if self._failures >= PROBES:
                self._open()
            case BreakerState.HALF_OPEN | BreakerState.OPEN:
                pass

    def _reset(self) -> None:
        self._failures = 0
        self._partitions.clear()

    def _open(self) -> None:
        self._open_until = self._clock() + self._random.uniform(0.5, 1.0) * self._open_s
        self._open_s = min(LONGEST_OPEN_S, self._open_s * 2)
        self._turn(BreakerState.OPEN)

    def _turn(self, state: BreakerState) -> None:
        _log.warning("cosmos.breaker", container=self._container, state=state.value, reason=self._reason)
        self.state = state
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
