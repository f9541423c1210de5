"""Keeps requests back until their time comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.local.cosmos.faults.rules import Operation
    from core.local.cosmos.faults.subject import Subject
    from core.local.cosmos.messages import Response

_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """It was not applied yet."""

    kind: Literal["waiting"] = "waiting"


@dataclass(frozen=True, slots=True)
class Applied:
    """It was applied, and this is how it was answered."""

    status: int
    substatus: int
    kind: Literal["applied"] = "applied"


@dataclass(frozen=True, slots=True)
class Dropped:
    """It never took effect: it was dropped, or the server stopped."""

    kind: Literal["dropped"] = "dropped"


Outcome: TypeAlias = Waiting | Applied | Dropped


@dataclass(slots=True)
class HeldRequest:
    """A request that was held back by the rule `rule`; `path` is where it was sent, `ids` are its documents'."""

    id: str
    rule: str
    operation: Operation
    path: str
    ids: tuple[str, ...]
    outcome: Outcome


class _Parked:
    __slots__ = ("answer", "apply", "timer")

    def __init__(
        self, apply: Callable[[], Response], answer: asyncio.Future[Response | None], timer: asyncio.TimerHandle | None
    ) -> None:
        self.apply = apply
        self.answer = answer
        self.timer = timer


class HeldRequests:
    """The requests that are held back, and how the last of them ended.

    They are released or dropped in the order in which they came. They live in memory: those still held when the server
    stops are dropped.
    """

    def __init__(self) -> None:
        self._requests: dict[str, HeldRequest] = {}
        self._parked: dict[str, _Parked] = {}
        self._last = 0

    def __iter__(self) -> Iterator[HeldRequest]:
        """Iterate over the requests, those that wait and those that have ended."""
        return iter(list(self._requests.values()))

    def __getitem__(self, id_: str) -> HeldRequest:
        """Return a request, held or not any more; KeyError for one that was never held or is long forgotten."""
        return self._requests[id_]

    def hold(
        self,
        rule: str,
        subject: Subject,
        apply: Callable[[], Response],
        seconds: float | None,
    ) -> asyncio.Future[Response | None]:
        """Apply a request after `seconds` (None: on release); the future has its answer, None if it was dropped."""
        self._last += 1
        id_ = str(self._last)
        loop = asyncio.get_running_loop()
        timer = None if seconds is None else loop.call_later(seconds, self._due, id_)
        parked = _Parked(apply, loop.create_future(), timer)
        self._parked[id_] = parked
        self._requests[id_] = HeldRequest(id_, rule, subject.operation, subject.path, subject.ids, Waiting())
        return parked.answer

    def release(self, id_: str) -> Outcome:
        """Apply a request now, against what is there now; one that is not waiting any more stays as it is.

        Raises:
            KeyError: there is no such request.
        """
        request = self._requests[id_]
        parked = self._take(id_)
        if parked is not None:
            response = parked.apply()
            request.outcome = Applied(response.status, int(response.headers.get("x-ms-substatus", "0")))
            self._end(parked, response)
        return request.outcome

    def release_all(self) -> list[Outcome]:
        """Apply all requests that wait, in the order in which they came."""
        return [self.release(id_) for id_ in list(self._parked)]

    def drop(self, id_: str) -> Outcome:
        """Forget what a request asks for; one that is not waiting any more stays as it is.

        Raises:
            KeyError: there is no such request.
        """
        request = self._requests[id_]
        parked = self._take(id_)
        if parked is not None:
            request.outcome = Dropped()
            self._end(parked, None)
        return request.outcome

    def drop_all(self) -> None:
        """Forget what all requests that wait ask for."""
        for id_ in list(self._parked):
            self.drop(id_)

    def clear(self) -> None:
        """Drop what waits, and forget how the others ended."""
        self.drop_all()
        self._requests.clear()

    def _due(self, id_: str) -> None:
        self.release(id_)

    def _take(self, id_: str) -> _Parked | None:
        parked = self._parked.pop(id_, None)
        if parked is not None and parked.timer is not None:
            parked.timer.cancel()
        return parked

    def _end(self, parked: _Parked, response: Response | None) -> None:
        if not parked.answer.done():
            parked.answer.set_result(response)
        ended = [id_ for id_ in self._requests if id_ not in self._parked]
        for id_ in ended[:-_KEPT]:
            del self._requests[id_]
