"""Answers each ASGI request by one synchronous call of a handler."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import quote, unquote
from uuid import uuid4

from core.local.cosmos.errors import CosmosError, bad_request, too_large
from core.local.cosmos.faults.inject import Broken, Injector
from core.local.cosmos.faults.registry import Faults
from core.local.cosmos.messages import Request, Response, error_response
from core.local.cosmos.state.account import Account
from core.local.cosmos.wire.cutting import cut, cut_within

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

MAX_BODY = 4 * 1024 * 1024
CONTROL = "_crossfeed"  # no database can be addressed by a path that begins so
_log = logging.getLogger(__name__)
_BODILESS = frozenset({204, 304})


class Application:
    """The ASGI application over `handle`, which answers a request or raises what it refuses it with.

    Under the rules of `faults` it answers late, otherwise or never. Requests to `/_crossfeed` are answered by
    `control`; no fault hits them, nor what is no request at all: what is malformed, too large or a HEAD.
    """

    def __init__(
        self,
        handle: Callable[[Request], Response],
        faults: Faults | None = None,
        control: Callable[[Request], Response] | None = None,
    ) -> None:
        self._handle = handle
        self._control = control or handle
        self._faults = faults or Faults(Account)
        self._injector = Injector(self._faults, partial(guarded, handle))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, unless the client goes away before its end."""
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            body = await _read(receive)
        except ConnectionError:
            return
        request = _request(scope, headers, body)
        if isinstance(request, Response):
            outcome: Response | Broken = request
        elif request.segments and request.segments[0] == CONTROL:
            outcome = guarded(self._control, request)
        elif self._faults.active:
            outcome = await self._injector.answer(request)
        else:
            outcome = guarded(self._handle, request)
        response = outcome.half if isinstance(outcome, Broken) else outcome
        if response is None:
            await cut(scope, send)
            return
        if scope["method"] == "HEAD":
            response.body = b""
        start = {"type": "http.response.start", "status": response.status, "headers": _fields(response, headers)}
        content = b"" if response.status in _BODILESS else response.body
        if isinstance(outcome, Broken):
            await cut_within(scope, send, start, content)
            return
        await send(start)
        await send({"type": "http.response.body", "body": content})


def guarded(handle: Callable[[Request], Response], request: Request) -> Response:
    """Return the answer of `handle`, whatever it raises."""
    try:
        return handle(request)
    except CosmosError as error:
        return error_response(error)
    except RecursionError:
        return error_response(bad_request("The request is nested too deeply."))
    except Exception:  # noqa: BLE001 - the outermost loop: a defect must not end the connection
        _log.exception("cosmos.request_failed")
        return error_response(CosmosError(500, "The server failed to answer; its log says why."))


def _request(scope: dict[str, Any], headers: dict[str, str], body: bytes | None) -> Request | Response:
    """Return the request, or the answer to what is none."""
    if body is None:
        return error_response(too_large())
    if scope["method"] == "HEAD":
        return error_response(CosmosError(405, "The method HEAD is not allowed here."))
    try:
        return Request(scope["method"], _segments(scope["raw_path"]), headers, body)
    except CosmosError as error:
        return error_response(error)


async def _read(receive: Receive) -> bytes | None:
    """Return the whole body, None if it is too large: then it was read to its end, and not kept.

    Raises:
        ConnectionError: if the client is gone.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        part = message["body"]
        size += len(part)
        if size <= MAX_BODY:
            parts.append(part)
        else:
            parts.clear()
        if not message["more_body"]:
            return b"".join(parts) if size <= MAX_BODY else None


def _segments(raw_path: bytes) -> list[str]:
    """Split the path before it is unquoted: an id may contain a quoted slash."""
    try:
        path = raw_path.decode("ascii")
        return [unquote(part, errors="strict") if "%" in part else part for part in path.split("/") if part]
    except UnicodeDecodeError as error:
        raise bad_request("The path is not valid UTF-8.") from error


def _fields(response: Response, asked: dict[str, str]) -> list[tuple[bytes, bytes]]:
    fields = [(name.encode(), _wire_value(value)) for name, value in response.headers.items()]
    if response.status not in _BODILESS:
        fields.append((b"content-length", b"%d" % len(response.body)))
        if response.body:
            fields.append((b"content-type", b"application/json"))
    fields += (
        (b"x-ms-request-charge", b"%.2f" % response.charge),
        (b"x-ms-activity-id", _wire_value(asked.get("x-ms-activity-id") or str(uuid4()))),
        (b"x-ms-version", b"2018-12-31"),
        (b"x-ms-serviceversion", b"version=2.14.0.0"),
    )
    return fields


def _wire_value(value: str) -> bytes:
    """Encode a value; names of resources stand in some, so whatever would end a header is quoted."""
    return (value if value.isprintable() else quote(value, errors="replace")).encode("latin-1", "replace")
