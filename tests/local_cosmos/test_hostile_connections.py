"""Whatever a connection brings, it gets the right status or its end, at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from time import monotonic
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from core.local.cosmos import CosmosServer
from core.local.cosmos.wire.protocol import CosmosProtocol
from tests.local_cosmos.hostile_steps import (
    LAST,
    PLAIN,
    POST,
    answers,
    connect,
    eventually_without_connections,
    statuses,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


@pytest_asyncio.fixture(scope="module")
async def server() -> AsyncIterator[CosmosServer]:
    async with CosmosServer() as server:
        yield server


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CosmosProtocol, "head_timeout", 0.1)
    monkeypatch.setattr(CosmosProtocol, "body_timeout", 0.1)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"BREW /dbs HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET dbs HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /dbs HTTP/1.1\r\nhost: x\r\nx: \x00\r\n\r\n", 400),
        (b"GET /dbs HTTP/1.1\r\nhost: x\r\nx: y\r\n folded\r\n\r\n", 400),
        (b"GET /dbs HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (POST + b"content-length: -5\r\n\r\n", 400),
        (POST + b"content-length: 1e3\r\n\r\n", 400),
        (POST + b"content-length: 99999999999999999999999\r\n\r\n", 400),
        (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (POST + b"transfer-encoding: gzip\r\n\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\n\r\nZZ\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n", 400),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n" + PLAIN, 405),
        (b"TRACE /dbs HTTP/1.1\r\nhost: x\r\n\r\n" + PLAIN, 405),
        (POST + b"content-length: 100000000000\r\n\r\n{", 413),
        (POST + b"content-length: 100000000000\r\nexpect: 100-continue\r\n\r\n", 413),
        (POST + b"transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\nZZ\r\n", 400),
        (b"GET /" + b"y" * 300_000, 431),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 300_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(30_000)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
    ids=lambda value: repr(value[-40:]) if isinstance(value, bytes) else None,
)  # fmt: skip
async def test_what_is_no_request_is_refused_as_cosmos_refuses_and_ends_its_connection(
    server: CosmosServer, request_: bytes, status: int
) -> None:
    began = monotonic()
    (answer,) = await answers(server, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert statuses([answer]) == [status]
    assert json.loads(body).keys() == {"code", "message"}
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    assert monotonic() - began < 0.5
    assert statuses(await answers(server, LAST)) == [401]


@pytest.mark.parametrize(
    "request_",
    [
        LAST,
        b"\r\n\r\n" + LAST,
        b"GET http://elsewhere/dbs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET http://elsewhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /dbs HTTP/1.0\r\n\r\n",
        b"GET /dbs HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\n{\r\n0\r\ntrailer: x\r\n\r\n",
        POST + b"connection: close\r\ncontent-length: 2\r\n\r\n{}",
        LAST + PLAIN,
        b"GET /dbs HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x81\x05hello",
        b"GET /dbs HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" + PLAIN,
        POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}" + PLAIN,
    ],
    ids=lambda value: repr(value[:50]),
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_a_request_is_one_request_in_however_many_pieces_it_comes(
    server: CosmosServer, request_: bytes, size: int
) -> None:
    pieces = [request_[n : n + size] for n in range(0, len(request_), size)]
    assert statuses(await answers(server, *pieces)) == [401]
    await eventually_without_connections(server)


@pytest.mark.parametrize(
    "half",
    [
        b"G",
        b"GET /dbs HTTP/1.1\r\nho",
        POST + b"content-length: 9\r\n\r\n{",
        POST + b"transfer-encoding: chunked\r\n\r\n1",
    ],
)
@pytest.mark.usefixtures("short_deadlines")
async def test_the_rest_of_a_request_has_its_time_and_no_more(server: CosmosServer, half: bytes) -> None:
    began = monotonic()
    (answer,) = await answers(server, half)
    assert statuses([answer]) == [408]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "RequestTimeout"
    assert 0.09 < monotonic() - began < 1


@pytest.mark.usefixtures("short_deadlines")
async def test_who_sends_a_byte_now_and_then_gets_no_more_time(server: CosmosServer) -> None:
    reader, writer = await connect(server)
    writer.write(b"GET /dbs HTTP/1.1\r\n")
    began = monotonic()
    with contextlib.suppress(ConnectionError):
        while not reader._buffer and monotonic() - began < 2:  # type: ignore[attr-defined]
            writer.write(b"x")
            await asyncio.sleep(0.02)
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    assert monotonic() - began < 1
    writer.close()


@pytest.mark.usefixtures("short_deadlines")
async def test_between_requests_there_is_no_deadline(server: CosmosServer) -> None:
    reader, writer = await connect(server)
    for size in (len(PLAIN), 7):  # the second one is late for no deadline of its own
        await asyncio.sleep(0.15)
        writer.write(PLAIN[:size])
        await asyncio.sleep(0.02)
        writer.write(PLAIN[size:])
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 1)
        assert head.startswith(b"HTTP/1.1 401 ")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.15)
    writer.close()


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\n\r\n" + PLAIN, 405),
        (POST + b"content-length: 9\r\n\r\n{", 408),
        (POST + b"transfer-encoding: chunked\r\n\r\nZZ\r\n", 400),
        (POST + b"content-length: 100000000000\r\n\r\n{", 413),
    ],
)
@pytest.mark.usefixtures("short_deadlines")
async def test_a_refusal_comes_after_the_answers_to_the_requests_before_it(
    server: CosmosServer, bad: bytes, status: int
) -> None:
    assert statuses(await answers(server, PLAIN + bad)) == [401, status]
    assert statuses(await answers(server, PLAIN * 20 + bad)) == [401] * 20 + [status]


async def test_trailers_are_no_headers(server: CosmosServer) -> None:
    head = POST + b"connection: close\r\ntransfer-encoding: chunked\r\n"
    (answer,) = await answers(server, head + b"\r\n0\r\nx-ms-activity-id: smuggled\r\n\r\n")
    assert b"smuggled" not in answer
    (answer,) = await answers(server, head + b"x-ms-activity-id: honest\r\n\r\n0\r\n\r\n")
    assert b"honest" in answer


@pytest.mark.parametrize(
    ("head", "part", "status"),
    [
        (b"GET /", b"y" * 8192, 431),
        (b"GET / HTTP/1.1\r\nx: ", b"y" * 8192, 431),
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n" * 1000, 431),
        (POST + b"transfer-encoding: chunked\r\n\r\n1;x=", b"y" * 8192, 431),
        (POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"y" * 8192, 431),
        (POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 1000, 431),
    ],
    ids=["target", "value", "names", "extension", "trailer", "trailers"],
)
async def test_what_has_no_end_is_refused_before_it_is_much(
    server: CosmosServer, head: bytes, part: bytes, status: int
) -> None:
    reader, writer = await connect(server)
    writer.write(head)
    sent = 0
    while not reader._buffer and sent < 50_000_000:  # type: ignore[attr-defined]
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
        sent += len(part)
    assert (await reader.readline()).split()[1] == b"%d" % status
    assert sent < 5_000_000
    writer.close()


@pytest.mark.usefixtures("short_deadlines")
async def test_no_mutilated_request_hangs_or_harms(server: CosmosServer) -> None:
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    sized = POST + b"x-ms-date: Mon, 01 Jan 2024 00:00:00 GMT\r\ncontent-length: 11\r\n\r\n" + b'{"id":"db"}'

    async def one(seed: int) -> None:
        choice = random.Random(seed)
        data = bytearray(b"".join(choice.choices([PLAIN, chunked, sized], k=3)))
        for _ in range(choice.randrange(1, 6)):
            at = choice.randrange(len(data))
            match choice.randrange(4):
                case 0:
                    data[at] = choice.randrange(256)
                case 1:
                    del data[at : at + choice.randrange(1, 20)]
                case 2:
                    data[at:at] = choice.choice([b"\r\n", b"\x00", b":", b" ", b"0", b"\n", b"content-length: 3\r\n"])
                case 3:
                    data[at:at] = data[: choice.randrange(40)]
        size = choice.randrange(1, 200)
        pieces = [bytes(data[n : n + size]) for n in range(0, len(data), size)]
        found = statuses(await answers(server, *pieces, LAST))
        assert found, (seed, bytes(data))
        assert set(found) <= {400, 401, 404, 405, 408, 413}, (seed, found)

    async with asyncio.timeout(20):
        for first in range(0, 400, 50):
            await asyncio.gather(*map(one, range(first, first + 50)))
    await eventually_without_connections(server)
