"""Speaks HTTP/1.1 with a client, however it behaves: uvicorn's protocol with bounds, and each answer in one piece."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.messages import error_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

TRANSPORT: Final = "crossfeed.transport"
_CLOSE = (b"connection", b"close")
_LINGER = 1.0  # seconds
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
_NOTHING_KEPT: Any = deque(maxlen=0)


class _Awaited(Enum):
    """What a connection has to bring next."""

    REQUEST = auto()
    REST_OF_HEAD = auto()
    REST_OF_BODY = auto()


class CosmosProtocol(HttpToolsProtocol):
    """One connection; its transport is in the `extensions` of every request's scope, under `TRANSPORT`.

    What cannot be read as a request is refused, after the answers to the requests before it; then the connection ends.
    """

    # Bytes of a head, give or take one read.
    max_head = 64 * 1024
    # A body that is too large is read to its end, so that the connection lives on; but not one announced as this large.
    max_announced = 64 * 1024 * 1024
    # Seconds from the first byte of a request that does not come at once to the last of its head, or of its body.
    head_timeout = 20.0
    body_timeout = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection."""
        super().connection_made(transport)
        self._extensions: dict[str, Any] = {TRANSPORT: transport}
        self._awaited = _Awaited.REQUEST
        self._unparsed = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._refusal: CosmosError | None = None
        self._deaf = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection that has ended, of its timers too: they would keep all of it for their time."""
        self._unset_keepalive_if_required()
        self._unset_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of the client."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._unparsed = len(data) if self._awaited is _Awaited.REQUEST else self._unparsed + len(data)
        try:
            self.parser.feed_data(data)
            if self._awaited is not _Awaited.REQUEST:
                self._wait_for_rest()
        except httptools.HttpParserUpgrade:
            self._deaf = True  # its answer ends the connection, which on_headers_complete has seen to
        except CosmosError as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            refused = error.__context__  # what a callback raised
            self._refuse(refused if isinstance(refused, CosmosError) else _malformed())

    def _wait_for_rest(self) -> None:
        """Give an incomplete request its time.

        Raises:
            CosmosError: 413, 431 if it is already known to be too large.
        """
        if self._unparsed > self.max_head:
            raise _head_too_large()
        if self._awaited is _Awaited.REST_OF_HEAD:
            timeout = self.head_timeout
        else:
            timeout = self.body_timeout
            announced = dict(self.cycle.scope["headers"]).get(b"content-length", b"0")
            if int(announced) > self.max_announced:
                raise CosmosError(413, "Request size is too large.")
        if self._deadline is None:
            self._deadline = self.loop.call_later(timeout, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self.flow.read_paused:  # it is the server that does not read
            self._wait_for_rest()
        else:
            self._refuse(CosmosError(408, "The rest of the request did not come in time."))

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._awaited = _Awaited.REST_OF_HEAD

    def on_headers_complete(self) -> None:
        """Begin to answer a request, whose body may still be on its way.

        Raises:
            CosmosError: 405, 431 for what is answered by nobody.
        """
        if self._unparsed > self.max_head and sum(len(n) + len(v) for n, v in self.headers) > self.max_head:
            raise _head_too_large()
        self._unparsed = 0
        scope = self.scope
        scope["method"] = method = self.parser.get_method().decode("ascii")
        if method in _REFUSED_METHODS:
            raise CosmosError(405, f"The method {method} is not allowed here.")
        scope["http_version"] = self.parser.get_http_version()
        url = httptools.parse_url(self.url)
        scope["raw_path"] = url.path or b"/"
        scope["path"] = unquote(scope["raw_path"])
        scope["query_string"] = url.query or b""
        self.headers = _NOTHING_KEPT  # trailers
        before = self.cycle
        self.cycle = cycle = _Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=(
                scope["http_version"] == "1.1" and self.parser.should_keep_alive() and not self.parser.should_upgrade()
            ),
            on_response=self.on_response_complete,
        )
        cycle.hang_up = self._hang_up
        self._awaited = _Awaited.REST_OF_BODY
        if _unanswered(before):
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            self._start_asgi_task(cycle, self.app)

    def on_body(self, body: bytes) -> None:
        """Take a part of a request's body."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._awaited = _Awaited.REQUEST
        self._unset_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request; a refusal comes when there is none."""
        last = not self.pipeline
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        elif last and self._refusal is not None:
            self._end(self._refusal)

    def _refuse(self, refusal: CosmosError) -> None:
        """Answer nothing any more but what came whole, and last of all this refusal; take nothing any more."""
        self._refusal = refusal
        self._deaf = True
        self._unset_deadline()
        cycle = self.cycle
        if self._awaited is not _Awaited.REST_OF_BODY:
            if _unanswered(cycle):
                return
        elif self.pipeline:
            self.pipeline.popleft()
            return
        elif cycle.response_complete:
            self.transport.close()
            return
        else:
            cycle.disconnected = True
            cycle.message_event.set()
        self._end(refusal)

    def _end(self, refusal: CosmosError) -> None:
        if self.transport.is_closing():
            return
        answer = error_response(refusal)
        length = (b"content-length", b"%d" % len(answer.body))
        head = _head(answer.status, [length, (b"content-type", b"application/json"), _CLOSE])
        self.transport.write(head + answer.body)
        if self.transport.can_write_eof():
            self._hang_up()
        else:  # TLS cannot be ended on one side; that this is the last answer stands in its head
            self.flow.resume_reading()
            self._deadline = self.loop.call_later(_LINGER, self.transport.close)

    def _hang_up(self) -> None:
        """End the connection, but not so that the client, which may be sending still, loses the last answer.

        What is closed with something unread is reset. So the client has some time to read, and to close its side.
        """
        self._deaf = True
        self._unset_deadline()
        self._unset_keepalive_if_required()
        if self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER, self.transport.close)


class _Cycle(RequestResponseCycle):
    """One request and its answer, whose head is sent along with its body.

    The application frames its answers by a content-length, and its names and values are such as may stand in a head.
    """

    _is_read = False
    _unsent = b""
    hang_up: Callable[[], None]

    async def receive(self) -> ASGIReceiveEvent:
        """Return a part of the request."""
        if self.disconnected:  # also one that waits to be told to continue: it has been refused instead
            return {"type": "http.disconnect"}
        if self.more_body or self._is_read:
            return await super().receive()
        # All of it has come. To read from the connection now would be to queue up requests without end.
        self._is_read = True
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self.response_started = True
            self.waiting_for_100_continue = False
            headers = list(message["headers"])
            if _CLOSE in headers:
                self.keep_alive = False
            elif not self.keep_alive:
                headers.append(_CLOSE)
            self._unsent = _head(message["status"], headers)
        elif message["type"] == "http.response.body":
            self.transport.write(self._unsent + message["body"])
            self._unsent = b""
            if not message.get("more_body", False):
                self.response_complete = True
                self.message_event.set()
                if self.keep_alive:
                    self.on_response()
                else:
                    self.hang_up()


def _unanswered(cycle: RequestResponseCycle | None) -> bool:
    return cycle is not None and not cycle.response_complete


def _head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"%b%b\r\n" % (STATUS_LINE[status], b"".join([b"%b: %b\r\n" % header for header in headers]))


def _head_too_large() -> CosmosError:
    return CosmosError(431, "The head of the request is too large.")


def _malformed() -> CosmosError:
    return CosmosError(400, "The request is not valid HTTP.")
