"""Speaks HTTP/1.1 on a connection; parsing is httptools' work."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote
from uuid import uuid4

import httptools

from core.local.cosmos.errors import REASONS, CosmosError, bad_request, too_large
from core.local.cosmos.messages import Request, Response, error_response

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BODY = 4 * 1024 * 1024
MAX_HEADERS = 128 * 1024
_log = logging.getLogger(__name__)
_STATUS_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n" for status, (reason, _) in REASONS.items()}
_HEADERS_TOO_LARGE = CosmosError(431, "The request headers are too large.")
_BODILESS = frozenset({204, 304})


@lru_cache(maxsize=512)
def _header_name(name: bytes) -> str:
    return name.decode("latin-1").lower()


class HttpConnection(asyncio.Protocol):
    """One client connection: requests are answered in order, each by one synchronous call of `handle`."""

    def __init__(self, handle: Callable[[Request], Response], connections: set[HttpConnection]) -> None:
        self._handle = handle
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_size = 0
        self._body = bytearray()
        self._refusal: CosmosError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve."""
        # uvloop's transports do not inherit from asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._connections.discard(self)
        self._transport = None

    def close(self) -> None:
        """Close the connection after what was already answered."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived and answer every complete request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(bad_request("Upgrades are not supported."))
        except httptools.HttpParserError:
            self._refuse(bad_request("The request is not valid HTTP."))

    def on_message_begin(self) -> None:
        """Start a request."""
        self._reset()

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL."""
        self._url += url
        self._header_size += len(url)
        if self._header_size > MAX_HEADERS:
            self._refusal = _HEADERS_TOO_LARGE

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._header_size += len(name) + len(value)
        if self._header_size > MAX_HEADERS:
            self._refusal = _HEADERS_TOO_LARGE
            return
        self._headers[_header_name(name)] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Say that the body may come."""
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if len(self._body) + len(body) > MAX_BODY:
            self._refusal = too_large()
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """Answer the request."""
        if self._transport is None or self._transport.is_closing():
            return
        method = self._parser.get_method().decode("ascii")
        keep_alive = self._parser.should_keep_alive()
        try:
            response = self._answer(method)
        except Exception:  # noqa: BLE001 - the outermost loop: a defect must not end the connection
            _log.exception("cosmos.request_failed")
            response = error_response(CosmosError(500, "The server failed to answer; its log says why."))
        if method == "HEAD":
            response.status, response.body = 405, b""
        self._transport.write(_encode(response, self._headers, keep_alive=keep_alive))
        if not keep_alive:
            self._transport.close()

    def _answer(self, method: str) -> Response:
        if self._refusal is not None:
            return error_response(self._refusal)
        try:
            path = self._url.split(b"?", 1)[0].decode("ascii")
            segments = [unquote(part, errors="strict") if "%" in part else part for part in path.split("/") if part]
        except UnicodeDecodeError:
            return error_response(bad_request("The path is not valid UTF-8."))
        try:
            return self._handle(Request(method, segments, self._headers, bytes(self._body)))
        except CosmosError as error:
            return error_response(error)
        except RecursionError:
            return error_response(bad_request("The request is nested too deeply."))

    def _refuse(self, error: CosmosError) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_encode(error_response(error), self._headers, keep_alive=False))
            self._transport.close()


class _Date:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._until = 0.0
        self._text = ""

    def text(self) -> str:
        now = monotonic()
        if now >= self._until:
            self._until = now + 1
            self._text = formatdate(usegmt=True)
        return self._text


_date = _Date()


def _encode(response: Response, asked: dict[str, str], *, keep_alive: bool) -> bytes:
    lines = [_STATUS_LINES[response.status]]
    body = b"" if response.status in _BODILESS else response.body
    if response.status not in _BODILESS:
        lines.append(f"content-length: {len(body)}\r\n")
        if body:
            lines.append("content-type: application/json\r\n")
    lines.extend([f"{name}: {value}\r\n" for name, value in response.headers.items()])
    lines.append(
        f"x-ms-request-charge: {response.charge:.2f}\r\n"
        f"x-ms-activity-id: {asked.get('x-ms-activity-id') or uuid4()}\r\n"
        f"x-ms-version: 2018-12-31\r\nx-ms-serviceversion: version=2.14.0.0\r\ndate: {_date.text()}\r\n"
        f"{'' if keep_alive else 'connection: close' + chr(13) + chr(10)}\r\n"
    )
    return "".join(lines).encode("latin-1", "replace") + body
