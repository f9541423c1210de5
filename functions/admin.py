"""The HTTP functions, each behind a function key: health, status, and the dead letters.

GET  /api/crossfeed/health                 200 while documents get through the triggers, else 503, with what is wrong
GET  /api/crossfeed/status                 the same with all facts, 200 as long as there are any
GET  /api/crossfeed/dead-letters           ?direction=&kind=&entity=&id=&reason=&since=&limit=
POST /api/crossfeed/dead-letters/replay    {"numbers": [1, 2]}, or what the list takes, or {"all": true}; "dry_run"
POST /api/crossfeed/dead-letters/discard   the same
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import azure.functions as func
import structlog
from pydantic import ValidationError

from core.errors import ConfigurationError, CrossfeedError
from functions.admin_requests import Letters, LettersToAct, act_on_letters, list_letters
from functions.letters import Act
from functions.runtime import RUNTIME, Runtime
from functions.trigger_health import health_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Answer = Callable[[func.HttpRequest], Awaitable[func.HttpResponse]]

log = structlog.get_logger()


def blueprint(runtime: Runtime = RUNTIME) -> func.Blueprint:
    """Return the HTTP functions."""
    found = func.Blueprint()

    async def health(_: func.HttpRequest) -> func.HttpResponse:
        verdict = await health_of(runtime)
        body = {"ready": verdict.is_ready, "problems": list(verdict.problems)}
        return _json(body, 200 if verdict.is_ready else 503)

    async def status(_: func.HttpRequest) -> func.HttpResponse:
        verdict = await health_of(runtime)
        return _json(verdict.as_json(), 503 if verdict.facts is None else 200)

    async def letters(request: func.HttpRequest) -> func.HttpResponse:
        return _json(await list_letters(runtime, Letters.model_validate(_query(request))))

    async def replay(request: func.HttpRequest) -> func.HttpResponse:
        return await _act(runtime, Act.REPLAY, request)

    async def discard(request: func.HttpRequest) -> func.HttpResponse:
        return await _act(runtime, Act.DISCARD, request)

    for name, method, route, answer in (
        ("health", "GET", "crossfeed/health", health),
        ("status", "GET", "crossfeed/status", status),
        ("dead_letters", "GET", "crossfeed/dead-letters", letters),
        ("dead_letters_replay", "POST", "crossfeed/dead-letters/replay", replay),
        ("dead_letters_discard", "POST", "crossfeed/dead-letters/discard", discard),
    ):
        with_name = found.function_name(name)
        with_route = found.route(
            route=route, methods=[method], auth_level=func.AuthLevel.FUNCTION, trigger_arg_name="request"
        )
        with_name(with_route(_answered(answer)))
    return found


def _answered(answer: Answer) -> Answer:
    """Turn what an answer raises into a response; what is no error of ours says nothing but its class."""

    async def answered(request: func.HttpRequest) -> func.HttpResponse:
        try:
            return await answer(request)
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False, include_context=False)
            where = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found)
            return _json({"error": where}, 400)
        except CrossfeedError as error:
            return _json({"error": str(error)}, 500 if isinstance(error, ConfigurationError) else 503)
        except Exception as error:  # noqa: BLE001 - the outermost of a request
            log.error("admin.failed", error=type(error).__name__)  # noqa: TRY400 - a traceback may quote values
            return _json({"error": type(error).__name__}, 500)

    return answered


async def _act(runtime: Runtime, act: Act, request: func.HttpRequest) -> func.HttpResponse:
    wanted = LettersToAct.model_validate_json(request.get_body() or b"{}")
    if not wanted.names_something:
        return _json({"error": 'name letters, or say {"all": true}'}, 400)
    return _json(await act_on_letters(runtime, act, wanted))


def _query(request: func.HttpRequest) -> dict[str, Any]:
    # The host hands the function key over as any other parameter.
    found: dict[str, Any] = {name: value for name, value in request.params.items() if name != "code"}
    if "numbers" in found:
        found["numbers"] = found["numbers"].split(",")
    return found


def _json(body: dict[str, Any], status_code: int = 200) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(body), status_code=status_code, mimetype="application/json")
