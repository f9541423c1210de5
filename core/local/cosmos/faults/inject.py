"""Lets what was decided happen to a request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, assert_never

from core.local.cosmos.faults.actions import Budget, Cut, Delay, Down, Hold, Lag, Refuse
from core.local.cosmos.faults.refusals import refusal, refused
from core.local.cosmos.faults.replicas import lsn_behind, with_replicas
from core.local.cosmos.faults.subject import came_from, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.local.cosmos.faults.actions import Behind
    from core.local.cosmos.faults.registry import Faults, Step
    from core.local.cosmos.faults.subject import Subject
    from core.local.cosmos.messages import Request, Response
    from core.local.cosmos.state.container import Container


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection is cut, in the middle of the answer `half` or before any of it was sent."""

    half: Response | None = None


class Injector:
    """Handles requests under the rules of `faults`; `handle` answers one as it is, whatever it is."""

    def __init__(self, faults: Faults, handle: Callable[[Request], Response]) -> None:
        self._faults = faults
        self._handle = handle

    async def answer(self, request: Request) -> Response | Broken:
        """Answer a request."""
        subject = describe(request, self._faults.account())
        self._faults.remember(subject.container)
        steps = self._faults.decide(subject)
        outcome: Response | Broken | None = None
        for step in steps:
            outcome = await self._before(step, subject, request)
            if outcome is not None:
                break
        if outcome is None:
            outcome = self._handle(request)
            self._faults.spend(steps, subject, outcome.charge)
        for step in steps:
            if isinstance(outcome, Broken):
                break
            outcome = await self._after(step, subject, outcome)
        return outcome

    async def _before(  # noqa: C901, PLR0911 - one case per fault
        self, step: Step, subject: Subject, request: Request
    ) -> Response | Broken | None:
        match step.action:
            case Refuse(moment="before"):
                self._faults.happened(step, subject)
                return refusal(step.action)
            case Down():
                self._faults.happened(step, subject)
                return refused(503)
            case Cut(moment="before"):
                self._faults.happened(step, subject)
                return Broken()
            case Budget():
                if step.wait_ms is None:
                    return None
                self._faults.happened(step, subject)
                return refused(429, retry_after_ms=step.wait_ms)
            case Delay(moment="before"):
                return await self._pause(step, subject)
            case Hold():
                self._faults.happened(step, subject)
                return await self._hold(step, step.action, subject, request)
            case Lag(behind=behind):
                if request.view is None:
                    request.view = partial(self._older, step, subject, request, behind)
                return None
            case Refuse() | Cut() | Delay():
                return None
        assert_never(step.action)

    async def _after(self, step: Step, subject: Subject, response: Response) -> Response | Broken:
        match step.action:
            case Refuse(moment="after"):
                self._faults.happened(step, subject)
                return refusal(step.action)
            case Cut(moment="after"):
                self._faults.happened(step, subject)
                return Broken()
            case Cut(moment="middle"):
                self._faults.happened(step, subject)
                return Broken(response)
            case Delay(moment="after"):
                return await self._pause(step, subject) or response
            case Refuse() | Cut() | Delay() | Down() | Budget() | Hold() | Lag():
                return response
        assert_never(step.action)

    async def _pause(self, step: Step, subject: Subject) -> Broken | None:
        assert isinstance(step.action, Delay)
        self._faults.happened(step, subject)
        goes_on = await self._faults.pause(step.action.duration.draw(step.random))
        return None if goes_on else Broken()

    async def _hold(self, step: Step, hold: Hold, subject: Subject, request: Request) -> Response | Broken:
        answer = self._faults.held.hold(step.active.name, subject, partial(self._handle, request), hold.seconds)
        match hold.client:
            case "cut":
                return Broken()
            case "timeout":
                return refused(408)
            case "waits":
                return await answer or Broken()
        assert_never(hold.client)

    def _older(self, step: Step, subject: Subject, request: Request, behind: Behind, container: Container) -> Container:
        everything = "full-fidelity" in request.headers.get("a-im", "").lower()
        now = container.clock.now()
        replicas = []
        for partition in container.partitions:
            if partition.past is None or not came_from(partition, step.active.rule.on.range_id):
                continue
            lsn = lsn_behind(partition.past, behind, step.random, partition.lsn, now)
            if everything:
                # A position from before the history was kept could not be gone on from.
                lsn = max(lsn, partition.history_start)
            if lsn < partition.lsn:
                replicas.append(partition.past.view(partition, lsn, now))
        touched = {partition.id for partition in subject.partitions}
        if touched.isdisjoint(replica.id for replica in replicas):
            return container
        self._faults.happened(step, subject)
        return with_replicas(container, replicas)
