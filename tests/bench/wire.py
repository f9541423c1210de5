"""Drives a server with prepared HTTP requests: a client so thin that the server is what is measured."""

from __future__ import annotations

import hmac
import selectors
import socket
from base64 import b64decode, b64encode
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from time import perf_counter
from typing import NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit

_TIMEOUT_S = 30.0


class Answer(NamedTuple):
    """An HTTP answer; `head` is all of its head as it came."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Return a header by its lower-case name."""
        start = self.head.index(b"\r\n" + name + b": ") + len(name) + 4
        return self.head[start : self.head.index(b"\r\n", start)]


# What one connection does: requests come out of it, the answer to each goes into it.
Script: TypeAlias = Generator[bytes, Answer, None]


class WrongAnswerError(Exception):
    """The server answered something else than a correct server does; a measurement of that is worth nothing."""


def expect(answer: Answer, *statuses: int) -> None:
    """Raise WrongAnswerError unless the answer has one of the statuses."""
    if answer.status not in statuses:
        msg = f"expected {' or '.join(map(str, statuses))}, got {answer.status}: {answer.body[:300]!r}"
        raise WrongAnswerError(msg)


@dataclass(frozen=True)
class Signer:
    """Builds signed requests for one account, dated when the signer was made."""

    endpoint: str
    key: str
    date: str = field(default_factory=lambda: formatdate(usegmt=True))

    def request(  # noqa: PLR0913, PLR0917 - a request has so many parts
        self, verb: str, path: str, kind: str, link: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """Return a request with the headers that the SDK sends; `kind` and `link` are what is signed."""
        text = f"{verb.lower()}\n{kind}\n{link}\n{self.date.lower()}\n\n"
        signature = b64encode(hmac.digest(b64decode(self.key), text.encode(), "sha256")).decode()
        sent = {
            "Host": urlsplit(self.endpoint).netloc,
            "Cache-Control": "no-cache",
            "x-ms-version": "2020-07-15",
            "User-Agent": "crossfeed-bench Python Linux-x86_64 azsdk-python-cosmos-async",
            "x-ms-date": self.date,
            "x-ms-activity-id": "00000000-0000-0000-0000-000000000000",
            "authorization": quote(f"type=master&ver=1.0&sig={signature}", safe="-_.!~*'()"),
            "Accept": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        return f"{verb} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass
class Driven:
    """What came of driving a server: seconds in all, and the seconds that each answer took."""

    elapsed: float
    latencies: list[float]


class _Connection:
    def __init__(self, endpoint: str, script: Script) -> None:
        address = urlsplit(endpoint)
        assert address.hostname is not None
        self.socket = socket.create_connection((address.hostname, address.port), timeout=_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.script = script
        self.sent_at = 0.0
        self._received = b""

    def send(self, request: bytes) -> None:
        self.sent_at = perf_counter()
        self.socket.sendall(request)

    def receive(self) -> Answer | None:
        """Take what has come; None while the answer is incomplete."""
        data = self.socket.recv(1 << 20)
        if not data:
            msg = "the server closed the connection"
            raise WrongAnswerError(msg)
        data = self._received + data if self._received else data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            head = data[: end + 2]
            status = int(head[9:12])
            start = head.find(b"\r\ncontent-length: ")
            length = int(head[start + 18 : head.index(b"\r\n", start + 18)]) if start >= 0 else 0
            if len(data) - end - 4 == length:
                self._received = b""
                return Answer(status, head, data[end + 4 :])
        self._received = data
        return None


def drive(endpoint: str, scripts: Sequence[Script], seconds: float | None = None) -> Driven:
    """Run each script on a connection of its own, until `seconds` are over or all scripts have ended.

    Raises:
        WrongAnswerError: an answer was none, or not the one that its script expects.
    """
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector:
        began = perf_counter()
        end = began + seconds if seconds is not None else float("inf")
        waiting = 0
        for script in scripts:
            connection = _Connection(endpoint, script)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(next(script))
            waiting += 1
        try:
            while waiting:
                ready = selector.select(_TIMEOUT_S)
                if not ready:
                    msg = f"no answer within {_TIMEOUT_S:.0f} s"
                    raise WrongAnswerError(msg)
                for key, _ in ready:
                    connection = key.data
                    answer = connection.receive()
                    if answer is None:
                        continue
                    now = perf_counter()
                    latencies.append(now - connection.sent_at)
                    try:
                        request = connection.script.send(answer)
                    except StopIteration:
                        waiting -= 1
                        continue
                    if now < end:
                        connection.send(request)
                    else:
                        waiting -= 1
        finally:
            for key in list(selector.get_map().values()):
                key.data.socket.close()
        return Driven(perf_counter() - began, latencies)
