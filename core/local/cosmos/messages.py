"""Describes a request and a response apart from how they travel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import CosmosError, bad_request
from core.local.cosmos.values import too_deep

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.local.cosmos.state.container import Container


@dataclass(slots=True)
class Request:
    """A request: the unquoted path segments, lower-case header names, and the whole body.

    A read of a replica that is behind has its `view` of the container.
    """

    method: str
    segments: list[str]
    headers: dict[str, str]
    body: bytes
    view: Callable[[Container], Container] | None = None

    @property
    def is_query(self) -> bool:
        """Whether a POST asks for what is there, and creates nothing."""
        return self.flag("x-ms-documentdb-isquery") or "query+json" in self.headers.get("content-type", "")

    @property
    def is_minimal(self) -> bool:
        """Whether the client does not want to see what it has written."""
        return self.headers.get("prefer", "").replace(" ", "").lower() == "return=minimal"

    def flag(self, name: str) -> bool:
        """Say whether a header is `true`."""
        return self.headers.get(name, "").lower() == "true"

    def number(self, name: str) -> int | None:
        """Return a header as an integer, None where it is absent.

        Raises:
            CosmosError: 400 if it is no integer.
        """
        text = self.headers.get(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError as error:
            message = f"The value {text!r} of the header {name} is invalid."
            raise bad_request(message) from error

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the parsed body.

        Raises:
            CosmosError: 400 if it is not JSON.
        """
        try:
            return orjson.loads(self.body)
        except (orjson.JSONDecodeError, RecursionError) as error:
            raise bad_request("The request body is not valid JSON.") from error

    def json_object(self) -> dict[str, Any]:
        """Return the parsed body.

        Raises:
            CosmosError: 400 if it is not a JSON object.
        """
        body = self.json()
        if type(body) is not dict:
            raise bad_request("The request body must be a JSON object.")
        if too_deep(body, self.body):
            raise bad_request("The request body is nested too deeply.")
        return body


@dataclass(slots=True)
class Response:
    """A response; `charge` is in request units."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    charge: float = 1.0


def json_response(status: int, body: object, headers: dict[str, str] | None = None, charge: float = 1.0) -> Response:
    """Return a response with a JSON body."""
    return Response(status, orjson.dumps(body), headers or {}, charge)


def error_response(error: CosmosError) -> Response:
    """Return the response for a refusal."""
    headers = error.headers | ({"x-ms-substatus": str(error.substatus)} if error.substatus else {})
    return json_response(error.status, {"code": error.code, "message": error.message}, headers)
