"""The HTTP functions, each behind a function key: health, status, and the dead letters.

GET  /api/crossfeed/health                 200 while documents get through the triggers, else 503, with what is wrong
GET  /api/crossfeed/status                 the same with all facts, 200 as long as there are any
GET  /api/crossfeed/dead-letters           ?direction=&kind=&entity=&id=&reason=&since=&limit=
POST /api/crossfeed/dead-letters/replay    {"numbers": [1, 2]}, or what the list takes, or {"all": true}; "dry_run"
POST /api/crossfeed/dead-letters/discard   the same
GET  /api/crossfeed/page                   the status page (functions.page), for people
POST /api/crossfeed/page                   its buttons; they take CROSSFEED_ADMIN_TOKEN as well, and
                                           CROSSFEED_ADMIN_ON_PUBLIC_ADDRESS=true
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import azure.functions as func

from core.postgres.dead_letters import Direction
from functions.admin_answers import in_json, parameters, route
from functions.admin_requests import Letters, LettersToAct, act_on_letters, list_letters
from functions.letters import Act
from functions.page.access import Door
from functions.page.acting import MOST_BYTES
from functions.page.status_page import StatusPage
from functions.runtime import RUNTIME, Runtime
from functions.trigger_health import health_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from functions.bootstrap import Application
    from functions.page.status_page import Answer


def blueprint(runtime: Runtime = RUNTIME) -> func.Blueprint:
    """Return the HTTP functions."""
    found = func.Blueprint()

    async def health(_: func.HttpRequest) -> func.HttpResponse:
        verdict = await health_of(runtime)
        body = {"ready": verdict.is_ready, "problems": list(verdict.problems)}
        return in_json(body, 200 if verdict.is_ready else 503)

    async def status(_: func.HttpRequest) -> func.HttpResponse:
        verdict = await health_of(runtime)
        return in_json(verdict.as_json(), 503 if verdict.facts is None else 200)

    async def letters(request: func.HttpRequest) -> func.HttpResponse:
        return in_json(await list_letters(runtime, Letters.model_validate(_query(request))))

    async def replay(request: func.HttpRequest) -> func.HttpResponse:
        return await _act(runtime, Act.REPLAY, request)

    async def discard(request: func.HttpRequest) -> func.HttpResponse:
        return await _act(runtime, Act.DISCARD, request)

    route(found, "health", "GET", "crossfeed/health", health)
    route(found, "status", "GET", "crossfeed/status", status)
    route(found, "dead_letters", "GET", "crossfeed/dead-letters", letters)
    route(found, "dead_letters_replay", "POST", "crossfeed/dead-letters/replay", replay)
    route(found, "dead_letters_discard", "POST", "crossfeed/dead-letters/discard", discard)
    _add_page(found, runtime)
    return found


def _add_page(found: func.Blueprint, runtime: Runtime) -> None:
    async def look(request: func.HttpRequest) -> func.HttpResponse:
        async with runtime.application() as application:
            return _response(await _page(runtime, application).get(_headers(request)))

    async def act(request: func.HttpRequest) -> func.HttpResponse:
        async with runtime.application() as application:
            body = request.get_body()[: MOST_BYTES + 1]
            return _response(await _page(runtime, application).post(_headers(request), body))

    route(found, "page", "GET", "crossfeed/page", look)
    route(found, "page_act", "POST", "crossfeed/page", act)


def _page(runtime: Runtime, application: Application) -> StatusPage:
    """Return the page of the app: who reads it has shown a function key to Azure."""

    async def own_problems() -> Sequence[str]:
        return (await health_of(runtime)).problems

    door = Door(application.settings, is_own=False, is_guarded=True)
    return StatusPage("Functions app", door, lambda: nullcontext(application), frozenset(Direction), own_problems)


def _headers(request: func.HttpRequest) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def _response(answer: Answer) -> func.HttpResponse:
    return func.HttpResponse(answer.body, status_code=answer.status, headers=dict(answer.headers))


async def _act(runtime: Runtime, act: Act, request: func.HttpRequest) -> func.HttpResponse:
    wanted = LettersToAct.model_validate_json(request.get_body() or b"{}")
    if not wanted.names_something:
        return in_json({"error": 'name letters, or say {"all": true}'}, 400)
    return in_json(await act_on_letters(runtime, act, wanted))


def _query(request: func.HttpRequest) -> dict[str, Any]:
    found = parameters(request)
    if "numbers" in found:
        found["numbers"] = found["numbers"].split(",")
    return found
