"""What travels between a connection and a handler, and what becomes of connections when the server stops."""

from __future__ import annotations

import asyncio
import logging
import signal
from time import monotonic
from typing import Any

import pytest

from core.local.cosmos import CosmosServer
from core.local.cosmos.messages import Request, Response
from core.local.cosmos.wire.application import MAX_BODY, Application


class Handler:
    """Keeps what it is asked and gives one answer to everything."""

    def __init__(self, answer: Response | Exception) -> None:
        self.answer = answer
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def exchange(handler: Handler, *received: dict[str, Any], path: bytes = b"/dbs") -> list[dict[str, Any]]:
    """Return the messages sent for a request."""
    messages = list(received or [part(b"")])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "raw_path": path, "headers": [(b"x-ms-activity-id", b"a")]}
    await Application(handler)(scope, receive, send)
    return sent


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def connect(server: CosmosServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(server.host, server.port)


async def test_a_path_is_split_before_it_is_unquoted() -> None:
    handler = Handler(Response(200, b"{}"))
    await exchange(handler, path=b"/dbs/a%2Fb//docs/%F0%9F%90%99%25")
    assert handler.asked[0].segments == ["dbs", "a/b", "docs", "🐙%"]


async def test_a_body_in_parts_is_handed_on_whole() -> None:
    handler = Handler(Response(201, b"{}"))
    start, end = await exchange(handler, part(b"ab", more=True), part(b"c"))
    assert handler.asked[0].body == b"abc"
    assert (start["status"], end["body"]) == (201, b"{}")


async def test_nothing_is_done_for_a_client_that_goes_away_before_its_request_ends() -> None:
    handler = Handler(Response(200))
    assert await exchange(handler, part(b"{", more=True), {"type": "http.disconnect"}) == []
    assert handler.asked == []


async def test_a_body_of_the_limit_is_handed_on_and_a_larger_one_refused() -> None:
    handler = Handler(Response(200, b"{}"))
    half = b"x" * (MAX_BODY // 2)
    start, _ = await exchange(handler, part(half, more=True), part(half))
    assert start["status"] == 200
    start, _ = await exchange(handler, part(half, more=True), part(half, more=True), part(b"x"))
    assert (start["status"], len(handler.asked)) == (413, 1)


async def test_a_defect_is_logged_and_answered_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    start, end = await exchange(Handler(ZeroDivisionError("secret")))
    assert start["status"] == 500
    assert b"secret" not in end["body"]
    assert caplog.messages == ["cosmos.request_failed"]


async def test_no_value_ends_its_header() -> None:
    start, _ = await exchange(Handler(Response(200, headers={"x-ms-alt-content-path": "dbs/a\r\nx: y\x7fü"})))
    values = dict(start["headers"])
    assert values[b"x-ms-alt-content-path"] == b"dbs/a%0D%0Ax%3A%20y%7F%C3%BC"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_says_no_length(status: int) -> None:
    start, end = await exchange(Handler(Response(status, b"{}")))
    assert not {b"content-length", b"content-type"} & dict(start["headers"]).keys()
    assert end["body"] == b""


@pytest.mark.parametrize("framing", ["content-length: 6291456", "transfer-encoding: chunked"])
async def test_a_connection_serves_on_after_a_body_that_was_too_large(server: CosmosServer, framing: str) -> None:
    reader, writer = await connect(server)
    mebibyte = b"x" * 1024 * 1024
    writer.write(f"POST /dbs HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n".encode())
    for _ in range(6):
        writer.write(b"100000\r\n" + mebibyte + b"\r\n" if "chunked" in framing else mebibyte)
        await writer.drain()
    if "chunked" in framing:
        writer.write(b"0\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.write(b"GET /dbs HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_answers_come_in_the_order_of_pipelined_requests(server: CosmosServer) -> None:
    reader, writer = await connect(server)
    paths = ["/dbs", "/%ff", "/dbs", "/%ff"]
    writer.write("".join(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n" for path in paths).encode())
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answers = (await asyncio.wait_for(reader.read(), 2)).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"401", b"400", b"401", b"400", b"401"]
    writer.close()


async def test_small_answers_are_not_held_back(server: CosmosServer) -> None:
    """An answer in two segments waits 40 ms for an acknowledgement unless the connection says otherwise."""
    reader, writer = await connect(server)
    began = monotonic()
    for _ in range(50):
        writer.write(b"GET /dbs HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    assert monotonic() - began < 1.0
    writer.close()


async def test_the_server_stops_within_a_second_whatever_its_clients_do() -> None:
    async with CosmosServer() as server:
        idle, half_head, half_body, deaf = [await connect(server) for _ in range(4)]
        idle[1].write(b"GET /dbs HTTP/1.1\r\nhost: x\r\n\r\n")
        half_head[1].write(b"GET /dbs HTTP/1.1\r\nho")
        half_body[1].write(b"POST /dbs HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        deaf[1].write(b"GET /dbs HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000)
        assert (await idle[0].readline()).startswith(b"HTTP/1.1 401 ")
        began = monotonic()
    assert monotonic() - began < 1.0
    with pytest.raises(ConnectionRefusedError):
        await connect(server)
    for _, writer in (idle, half_head, half_body, deaf):
        writer.transport.abort()


async def test_signals_and_log_handlers_stay_the_callers() -> None:
    def state() -> list[Any]:
        return [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers)]

    before = state()
    async with CosmosServer():
        assert state() == before
    assert state() == before
