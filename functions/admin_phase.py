"""The HTTP functions of the phase, each behind a function key: the same steps, checks and reports as the command's.

GET  /api/crossfeed/phase           phase, epoch, state, primary, the switch that is pending, who may write
GET  /api/crossfeed/phase/history   ?limit=
POST /api/crossfeed/phase/plan      {"way": "advance"}, and what the step takes; changes nothing
POST /api/crossfeed/phase/advance   {"timeout_s", "pause_budget_s", "accept_dead_letters", "writers_restarted",
POST /api/crossfeed/phase/back       "foreign_quiet_s", "settle_s", "who", "why", "dry_run", "from"}, each optional
POST /api/crossfeed/phase/resume    the same
POST /api/crossfeed/phase/cancel    {"who", "why"}

Name in "from" the phase that is to be left: a request that was made already, and is sent again because its answer was
lost, is refused then (409) rather than taken for the next step.

200: done, or possible. 409: refused, or put back; the body is the report. A step that does not fit into the time that
the host gives a request is better made by the command: a worker that is killed leaves a switch to resume or cancel.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import azure.functions as func
from pydantic import BaseModel, ConfigDict, Field

from core.errors import ConflictError
from core.migration.report import FOREIGN_QUIET_S, PAUSE_BUDGET_S, SETTLE_S, StepOptions
from core.migration.switch import cancel_pending
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from functions.admin_answers import in_json, parameters, route
from functions.migrating import migration_of
from functions.phase_facts import read_history, read_standing
from functions.phase_way import Way
from functions.runtime import RUNTIME, Runtime

if TYPE_CHECKING:
    from core.migration.report import Report
    from core.phases import Phase
    from functions.bootstrap import Application

TIMEOUT_S = 180.0
"""Azure's load balancer ends a request after 230 s."""
_WHO = "the HTTP function"


class _Limit(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=20, ge=1, le=1000)


class _Asked(BaseModel):
    """Who asks, and why, for the history."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    who: str = Field(default=_WHO, min_length=1, max_length=200)
    why: str = Field(default="asked over HTTP", max_length=1000)


class _Step(_Asked):
    timeout_s: float = Field(default=TIMEOUT_S, gt=0)
    pause_budget_s: float = Field(default=PAUSE_BUDGET_S, gt=0)
    accept_dead_letters: int = Field(default=0, ge=0)
    writers_restarted: bool = False
    foreign_quiet_s: float = Field(default=FOREIGN_QUIET_S, ge=0)
    settle_s: float = Field(default=SETTLE_S, ge=0)
    dry_run: bool = False
    leaving: str | None = Field(default=None, alias="from")

    @property
    def options(self) -> StepOptions:
        return StepOptions(**self.model_dump(include={item.name for item in fields(StepOptions)}))


class _Plan(_Step):
    way: Way = Way.ADVANCE


def blueprint(runtime: Runtime = RUNTIME) -> func.Blueprint:
    """Return the HTTP functions."""
    found = func.Blueprint()

    async def standing(_: func.HttpRequest) -> func.HttpResponse:
        async with runtime.application() as application:
            with translated("reading the phase"):
                async with application.engine.connect() as connection:
                    return in_json(await read_standing(connection))

    async def history(request: func.HttpRequest) -> func.HttpResponse:
        wanted = _Limit.model_validate(parameters(request))
        async with runtime.application() as application:
            with translated("reading the history"):
                async with application.engine.connect() as connection:
                    return in_json({"steps": await read_history(connection, wanted.limit)})

    async def plan(request: func.HttpRequest) -> func.HttpResponse:
        wanted = _Plan.model_validate_json(request.get_body() or b"{}")
        async with runtime.application() as application:
            return await _plan(application, wanted.way, wanted)

    async def advance(request: func.HttpRequest) -> func.HttpResponse:
        return await _step(runtime, Way.ADVANCE, request)

    async def back(request: func.HttpRequest) -> func.HttpResponse:
        return await _step(runtime, Way.BACK, request)

    async def resume(request: func.HttpRequest) -> func.HttpResponse:
        wanted = _Step.model_validate_json(request.get_body() or b"{}")
        async with runtime.application() as application:
            return _report(await migration_of(application).resume(who=wanted.who, options=wanted.options))

    async def cancel(request: func.HttpRequest) -> func.HttpResponse:
        wanted = _Asked.model_validate_json(request.get_body() or b"{}")
        async with runtime.application() as application:
            report = await cancel_pending(application.engine, who=wanted.who, why=wanted.why)
            return in_json(report.facts())

    route(found, "phase", "GET", "crossfeed/phase", standing)
    route(found, "phase_history", "GET", "crossfeed/phase/history", history)
    route(found, "phase_plan", "POST", "crossfeed/phase/plan", plan)
    route(found, "phase_advance", "POST", "crossfeed/phase/advance", advance)
    route(found, "phase_back", "POST", "crossfeed/phase/back", back)
    route(found, "phase_resume", "POST", "crossfeed/phase/resume", resume)
    route(found, "phase_cancel", "POST", "crossfeed/phase/cancel", cancel)
    return found


async def _step(runtime: Runtime, way: Way, request: func.HttpRequest) -> func.HttpResponse:
    wanted = _Step.model_validate_json(request.get_body() or b"{}")
    async with runtime.application() as application:
        if wanted.dry_run:
            return await _plan(application, way, wanted)
        to = way.of(await _left(application, wanted))
        migration = migration_of(application)
        return _report(await migration.step(to, who=wanted.who, why=wanted.why, options=wanted.options))


async def _plan(application: Application, way: Way, wanted: _Step) -> func.HttpResponse:
    plan = await migration_of(application).plan(way.of(await _left(application, wanted)), wanted.options)
    return in_json(plan.facts(), 200 if plan.is_possible else 409)


async def _left(application: Application, wanted: _Step) -> Phase:
    with translated("reading the phase"):
        async with application.engine.connect() as connection:
            phase = (await read_phase(connection)).phase
    if wanted.leaving not in {None, phase.label}:
        msg = f"the phase is {phase.label}, not the one that is to be left"
        raise ConflictError(msg)
    return phase


def _report(report: Report) -> func.HttpResponse:
    facts: dict[str, Any] = report.facts()
    return in_json(facts, 200 if report.is_done else 409)
