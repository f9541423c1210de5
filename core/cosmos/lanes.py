"""Sends the requests of one container: when it is their turn, and not into a container that does nothing any more."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from core.cosmos.breaker import Breaker, BreakerState
from core.cosmos.failures import (
    DRIVER_ERRORS,
    TOO_MANY_REQUESTS,
    CosmosUnavailableError,
    Unanswered,
    Unavailable,
    failure_of,
)
from core.cosmos.pacing import Pacer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

T = TypeVar("T")

SICK_S: Final = 30.0
"""How long after it was given up a logical partition gets a single attempt, in seconds: nobody waits for it again."""

MOST_SICK: Final = 10_000
CHARGE: Final = "x-ms-request-charge"


class Illness(NamedTuple):
    """Since when a logical partition fails while others work, and when that was last seen; monotonic seconds."""

    since: float
    seen_at: float


@dataclass(frozen=True, slots=True)
class ContainerState:
    """How one container is doing: the breaker, how many requests may be under way at once, and how many are."""

    breaker: BreakerState
    limit: int
    under_way: int


@dataclass(frozen=True, slots=True)
class WriterState:
    """What the guarded write did since it was made, for health and metrics; taken without asking any store.

    `throttled` are answers of 429, `retries` repetitions of any kind that infrastructure made necessary, `postponed`
    documents that were given up for now, `request_units` what all answers charged.
    """

    containers: Mapping[str, ContainerState]
    throttled: int
    retries: int
    postponed: int
    request_units: float

    @property
    def breaker(self) -> BreakerState:
        """The worst of all containers."""
        states = {container.breaker for container in self.containers.values()}
        for state in (BreakerState.OPEN, BreakerState.HALF_OPEN):
            if state in states:
                return state
        return BreakerState.CLOSED


class Lane:
    """All requests of one container go through here. Arguments as for Lanes, whose part it is."""

    def __init__(self, container: str, lanes: Lanes) -> None:
        self.breaker = Breaker(container, lanes.clock, lanes.random)
        self.window = lanes.pacer.window()
        self.worked_at = float("-inf")
        self.illnesses: dict[str, Illness] = {}
        self._lanes = lanes

    async def send(  # noqa: PLR0913 - what a request is
        self,
        request: Callable[[], Awaitable[T]],
        proceed: Callable[[], None],
        partition: str,
        *,
        operations: int = 1,
        backlog: bool = False,
        is_next: bool = False,
    ) -> T:
        """Send a request when it may be sent.

        Args:
            request: sends it.
            proceed: called just before, raises if it must not be sent any more.
            partition: the logical partition that it is about.
            operations: how many documents it is about.
            backlog: whether it yields to fresh requests.
            is_next: whether it goes before those that wait already.

        Raises:
            StoreDownError: the container does nothing any more.
            Exception: whatever `request` and `proceed` raise.

        """
        pacer, breaker = self._lanes.pacer, self.breaker
        while True:
            is_probe = False
            if not breaker.is_closed:
                proceed()
                is_probe = await breaker.admit()
            try:
                reserved = await pacer.take(self.window, operations, backlog=backlog, is_next=is_next)
                try:
                    if breaker.is_closed or is_probe:
                        proceed()
                        return await self._sent(request, partition)
                finally:
                    pacer.give_back(self.window, reserved)
            finally:
                if is_probe:
                    breaker.leave()

    def worked(self) -> None:
        """A document of this container has got its outcome."""
        self.worked_at = self._lanes.clock()
        self.breaker.worked()

    def postponed(self) -> None:
        """A document of this container was given up for now."""
        self._lanes.postponed += 1

    def illness(self, partition: str) -> Illness | None:
        """Return what is known against a logical partition, unless it was seen too long ago."""
        known = self.illnesses.get(partition)
        return known if known is not None and self._lanes.clock() - known.seen_at < SICK_S else None

    def fell_sick(self, partition: str, since: float) -> None:
        """A logical partition fails `since` a time while others work."""
        self.illnesses.pop(partition, None)
        self.illnesses[partition] = Illness(since, self._lanes.clock())
        if len(self.illnesses) > MOST_SICK:
            del self.illnesses[next(iter(self.illnesses))]

    async def _sent(self, request: Callable[[], Awaitable[T]], partition: str) -> T:
        began_at = self._lanes.clock()
        try:
            answer = await request()
        except DRIVER_ERRORS as error:
            self._note(error, began_at, partition)
            raise
        except CosmosUnavailableError as error:
            self._note(error.__cause__, began_at, partition)
            raise
        self.window.widen()
        return answer

    def _note(self, error: BaseException | None, began_at: float, partition: str) -> None:
        self._lanes.charged(getattr(error, "headers", None) or {})
        match failure_of(error) if isinstance(error, DRIVER_ERRORS) else None:
            case Unavailable(retry_after_s=retry_after_s, is_busy=True):
                if getattr(error, "status_code", None) == TOO_MANY_REQUESTS:
                    self._lanes.throttled += 1
                    self._lanes.pacer.throttled(self.window, began_at, retry_after_s)
            case Unavailable(reason) | Unanswered(reason):
                if self.illness(partition) is None:  # else it is no news
                    self.breaker.failed(reason, began_at, partition)
            case _:  # an answer about the document
                self.window.widen()


class Lanes:
    """The lanes of all containers, which share the turns.

    Args:
        concurrency: how many requests may be under way at the same time.
        ru_per_second: how many request units a second may be used, None for any number.
        clock: monotonic seconds.
        random: spreads the attempts of many relays.

    """

    def __init__(
        self,
        concurrency: int,
        ru_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.clock = clock
        self.random = random or Random()  # noqa: S311 - spreads load, keeps no secret
        self.pacer = Pacer(concurrency, ru_per_second, clock)
        self.throttled = 0
        self.retries = 0
        self.postponed = 0
        self._lanes: dict[str, Lane] = {}

    def of(self, container: str) -> Lane:
        """Return the lane of a container."""
        if container not in self._lanes:
            self._lanes[container] = Lane(container, self)
        return self._lanes[container]

    def charged(self, headers: Mapping[str, Any], operations: int = 1) -> None:
        """Count what an answer charged, by its headers."""
        charge = headers.get(CHARGE)
        if charge is not None:
            self.pacer.spend(float(charge), operations)

    def state(self) -> WriterState:
        """Return how everything is doing."""
        return WriterState(
            containers={
                name: ContainerState(lane.breaker.state, int(lane.window.limit), lane.window.under_way)
                for name, lane in self._lanes.items()
            },
            throttled=self.throttled,
            retries=self.retries,
            postponed=self.postponed,
            request_units=self.pacer.used_ru,
        )
