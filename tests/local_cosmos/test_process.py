"""The server as a process, and what it does with requests that are no good."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from core.local.cosmos import CosmosServer


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_prints_its_address_serves_and_stops_cleanly(stop: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "core.local.cosmos", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    async with CosmosClient(ready["endpoint"], ready["key"]) as client:
        await client.create_database("db")
        process.send_signal(stop)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_a_taken_port_is_named(server: CosmosServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "core.local.cosmos", "--port", str(server.port), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert str(server.port).encode() in errors
    assert b"Traceback" not in errors


async def test_a_wrong_key_is_unauthorized(server: CosmosServer) -> None:
    client = CosmosClient(server.endpoint, "d3Jvbmc=")
    with pytest.raises(CosmosHttpResponseError) as caught:
        await client.__aenter__()  # what it opened must be closed though it fails
    await client.close()
    assert caught.value.status_code == 401


async def test_an_unsigned_request_is_unauthorized(server: CosmosServer) -> None:
    async with aiohttp.ClientSession() as session, session.get(server.endpoint + "dbs") as answer:
        assert answer.status == 401
        assert (await answer.json())["code"] == "Unauthorized"


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /dbs/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /dbs HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /dbs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 300_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00",
    ],
)
async def test_what_is_no_request_is_refused_and_the_server_lives_on(server: CosmosServer, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(garbage)
    status = (await asyncio.wait_for(reader.readline(), 2)).split()[1]
    writer.close()
    assert status in {b"400", b"401", b"431"}
    async with CosmosClient(server.endpoint, server.key) as client:
        assert [found async for found in client.list_databases()] == []


async def test_a_truncated_request_hangs_nobody_else(server: CosmosServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /dbs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    async with CosmosClient(server.endpoint, server.key) as client:
        assert [found async for found in client.list_databases()] == []
    writer.close()
