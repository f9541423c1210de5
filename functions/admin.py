"""The HTTP functions, each behind a function key: health, status, and the dead letters.

GET  /api/crossfeed/health                 200 while documents get through the triggers, else 503, with what is wrong
GET  /api/crossfeed/status                 the same with all facts, 200 as long as there are any
GET  /api/crossfeed/dead-letters           ?direction=&kind=&entity=&id=&reason=&since=&limit=
POST /api/crossfeed/dead-letters/replay    {"numbers": [1, 2]}, or what the list takes, or {"all": true}; "dry_run"
POST /api/crossfeed/dead-letters/discard   the same
"""

from __future__ import annotations

from typing import Any

import azure.functions as func

from functions.admin_answers import in_json, parameters, route
from functions.admin_requests import Letters, LettersToAct, act_on_letters, list_letters
from functions.letters import Act
from functions.runtime import RUNTIME, Runtime
from functions.trigger_health import health_of


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
    return found


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
