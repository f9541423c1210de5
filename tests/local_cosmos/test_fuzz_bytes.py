"""Whatever bytes a client sends, the server answers them as HTTP, or hangs up; and it serves the next one."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

import aiohttp
import orjson
import pytest

from core.local.cosmos import CosmosServer
from core.local.cosmos.state.transaction import MAX_DOCUMENT
from tests.local_cosmos.model_wire import HttpWire, signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DOCS = ["dbs", "d", "colls", "c", "docs"]
HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]*\r\n((?:[a-z0-9-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n")
STATUSES = {200, 201, 204, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 431}
PIECES = [
    b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b" ", b":", b"\r\n\r\n", b"HTTP/1.1", b"HTTP/9.9",
    b"GET / HTTP/1.1\r\n\r\n",
    b"content-length: 5\r\n", b"content-length: -1\r\n", b"content-length: 9999999999999\r\n", b"content-length: 0\r\n",
    b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n", b"expect: 100-continue\r\n",
    b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"zz\r\n", b"ffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b"host: a\r\nhost: b\r\n", b"x" * 5000, b"x-long: " + b"y" * 70_000 + b"\r\n", b" folded\r\n",
    b"authorization: \xff\r\n",
    b"authorization: type%3dmaster%26ver%3d1.0%26sig%3d\r\n", b"authorization: type=aad&ver=1.0&sig=a.b.c\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"{}", b"[",
    b"x-ms-activity-id: a\x0bb\r\n", b"x-ms-activity-id: \xe9\r\n", b"TRACE / HTTP/1.1\r\n\r\n",
]  # fmt: skip


class Prober:
    """Sends bytes to one server, and asks it afterwards whether it is well."""

    def __init__(self, server: CosmosServer, wire: HttpWire, messages: list[str]) -> None:
        self.server = server
        self.wire = wire
        self.messages = messages

    def request(self, random: Random) -> bytes:
        """Return an honest request."""
        method, path, body = random.choice(
            [
                ("GET", ["dbs"], b""),
                ("GET", [], b""),
                ("GET", [*DOCS, "kept"], b""),
                ("POST", DOCS, b'{"id":"kept","pk":"p"}'),  # a conflict: nothing is changed
                ("DELETE", [*DOCS, "absent"], b""),
            ]
        )
        headers = {"host": "x", "x-ms-documentdb-partitionkey": '["p"]', **signature(self.server.key, method, path)}
        if body:
            headers["content-length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} /{'/'.join(path)} HTTP/1.1\r\n{head}\r\n".encode() + body

    def bent(self, random: Random) -> bytes:
        """Return one to three requests with some of their bytes cut, changed or put in."""
        data = b"".join(self.request(random) for _ in range(random.randint(1, 3)))
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(data) + 1)
            match random.randrange(5):
                case 0:
                    data = data[:at]
                case 1:
                    data = data[:at] + data[at + random.randint(1, 20) :]
                case 2:
                    data = data[:at] + random.randbytes(random.randint(1, 4)) + data[at + 1 :]
                case 3:
                    lines = [found.end() for found in re.finditer(rb"\r\n", data)] or [0]
                    at = random.choice(lines)
                    data = data[:at] + random.choice(PIECES) + data[at:]
                case _:
                    data = data[:at] + random.choice(PIECES) + data[at:]
        return data

    async def probe(self, data: bytes) -> None:
        """Send bytes, say that there are no more, and judge what comes back."""
        self.messages.clear()
        began = monotonic()
        reader, writer = await asyncio.open_connection(self.server.host, self.server.port)
        try:
            writer.write(data)
            writer.write_eof()
            received = await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            received = b""
        finally:
            writer.transport.abort()
        assert monotonic() - began < 8
        judge(received)
        assert not [message for message in self.messages if "Traceback" in message]
        answer = await self.wire.send("GET", [*DOCS, "kept"], {"x-ms-documentdb-partitionkey": '["p"]'})
        assert (answer.status, answer.json["n"]) == (200, 1)

    async def run(self, number: int) -> None:
        """Probe with the bent bytes of a number."""
        data = self.bent(Random(number))
        try:
            await self.probe(data)
        except BaseException as error:
            error.add_note(f"run {number}: {data[:2000]!r}")
            raise


def judge(received: bytes) -> None:
    """Assert that what was received is answers of HTTP, each refusal with its body."""
    while received:
        if received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            received = received[25:]
            continue
        head = HEAD.match(received)
        assert head is not None, received[:300]
        status = int(head[1])
        assert status in STATUSES, received[:300]
        headers = dict(line.split(b": ", 1) for line in head[2].splitlines())
        length = int(headers.get(b"content-length", b"0"))
        body = received[head.end() : head.end() + length]
        # A HEAD may have come of what was bent: nothing follows it.
        if status >= 400 and body and not body.startswith(b"HTTP/"):
            assert orjson.loads(body).keys() == {"code", "message"}
        received = received[head.end() + len(body) :]


@asynccontextmanager
async def probing(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Prober]:
    async with CosmosServer() as server, aiohttp.ClientSession() as session:
        wire = HttpWire(session, server.endpoint, server.key)
        server.account.create_database({"id": "d"}, None, None)
        key = {"paths": ["/pk"], "kind": "Hash", "version": 2}
        server.account.create_container("d", {"id": "c", "partitionKey": key}, 12_000, None)
        kept = await wire.send("POST", DOCS, {"x-ms-documentdb-partitionkey": '["p"]'}, b'{"id":"kept","pk":"p","n":1}')
        assert kept.status == 201
        yield Prober(server, wire, [])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_bent_bytes_are_answered_or_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with probing(caplog) as prober:
        for number in range(250):
            await prober.run(number)


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_bent_bytes_are_answered_or_cut_off_at_length(caplog: pytest.LogCaptureFixture) -> None:
    async with probing(caplog) as prober:
        number, began = 10_000, monotonic()
        while monotonic() - began < 20:
            await prober.run(number)
            number += 1


async def test_a_document_and_a_batch_of_the_limit_are_taken_and_larger_ones_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with probing(caplog) as prober:
        headers = {"x-ms-documentdb-partitionkey": '["p"]'}
        frame = len(b'{"id":"x","pk":"p","t":""}')
        for length, status in ((MAX_DOCUMENT - 1000, 201), (MAX_DOCUMENT - frame + 1, 413), (MAX_DOCUMENT * 3, 413)):
            body = b'{"id":"x","pk":"p","t":"%b"}' % (b"a" * length)
            answer = await prober.wire.send("POST", DOCS, headers, body)
            assert (answer.status, len(body) > MAX_DOCUMENT) == (status, status == 413)
        batch = {**headers, "x-ms-cosmos-is-batch-request": "True", "x-ms-cosmos-batch-atomic": "True"}
        for length, status in ((MAX_DOCUMENT // 2 - 600, 200), (MAX_DOCUMENT // 2, 413)):
            operations = [
                b'{"operationType":"Upsert","resourceBody":{"id":"%d","pk":"p","t":"%b"}}' % (n, b"a" * length)
                for n in range(2)
            ]
            answer = await prober.wire.send("POST", DOCS, batch, b"[%b]" % b",".join(operations))
            assert answer.status == status


async def test_an_id_is_refused_or_can_be_read_again(caplog: pytest.LogCaptureFixture) -> None:
    taken = ["a" * 1023, "é" * 511, "🐙", "..", "%2F", "a b", "é", "'", "+", "%", "&=;", "\u202e"]
    refused = ["a" * 1024, "é" * 512, "a/b", "a\\b", "a?b", "a#b", ""]
    async with probing(caplog) as prober:
        headers = {"x-ms-documentdb-partitionkey": '["p"]'}
        for name in [*taken, *refused]:
            created = await prober.wire.send("POST", DOCS, headers, orjson.dumps({"id": name, "pk": "p"}))
            assert created.status == (201 if name in taken else 400), name
        for name in taken:
            answer = await prober.wire.send("GET", [*DOCS, name], headers)
            assert (answer.status, answer.json["id"]) == (200, name)
