"""What all HTTP functions share: a route behind a function key, and an answer in JSON whatever happens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import azure.functions as func
import structlog
from pydantic import ValidationError

from core.errors import ConfigurationError, ConflictError, CrossfeedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Answer = Callable[[func.HttpRequest], Awaitable[func.HttpResponse]]

log = structlog.get_logger()


def route(found: func.Blueprint, name: str, method: str, path: str, answer: Answer) -> None:
    """Add an HTTP function to a blueprint."""
    with_name = found.function_name(name)
    with_route = found.route(
        route=path, methods=[method], auth_level=func.AuthLevel.FUNCTION, trigger_arg_name="request"
    )
    with_name(with_route(_answered(answer)))


def parameters(request: func.HttpRequest) -> dict[str, Any]:
    """Return what stands in the address; the host hands the function key over as any other parameter."""
    return {name: value for name, value in request.params.items() if name != "code"}


def in_json(body: Mapping[str, Any], status_code: int = 200) -> func.HttpResponse:
    """Return a response."""
    return func.HttpResponse(json.dumps(body), status_code=status_code, mimetype="application/json")


def _answered(answer: Answer) -> Answer:
    """Turn what an answer raises into a response; what is no error of ours says nothing but its class."""

    async def answered(request: func.HttpRequest) -> func.HttpResponse:
        try:
            return await answer(request)
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False, include_context=False)
            where = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found)
            return in_json({"error": where}, 400)
        except ConflictError as error:
            return in_json({"error": str(error)}, 409)
        except CrossfeedError as error:
            return in_json({"error": str(error)}, 500 if isinstance(error, ConfigurationError) else 503)
        except Exception as error:  # noqa: BLE001 - the outermost of a request
            log.error("admin.failed", error=type(error).__name__)  # noqa: TRY400 - a traceback may quote values
            return in_json({"error": type(error).__name__}, 500)

    return answered
