"""The server behind TLS: both kinds of the SDK, and clients that verify what they talk to."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import uvloop
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from core.local.cosmos import CosmosServer
from tests.sync_sdk import sync_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest_asyncio.fixture(scope="module")
async def secure() -> AsyncIterator[CosmosServer]:
    async with CosmosServer(tls=True) as server:
        yield server


async def certificate_of(server: CosmosServer) -> str:
    def fetch() -> str:
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        with urllib.request.urlopen(server.endpoint + "_explorer/emulator.pem", context=trusting) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(fetch)


async def shake_hands(server: CosmosServer, pem: str, name: str) -> None:
    context = ssl.create_default_context(cadata=pem)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname=name)
    writer.close()
    await writer.wait_closed()


async def test_the_async_sdk_works_and_is_told_the_same_scheme_and_address(secure: CosmosServer) -> None:
    assert secure.endpoint == f"https://127.0.0.1:{secure.port}/"
    async with CosmosClient(secure.endpoint, secure.key) as client:
        database = await client.create_database("asynchronous")
        container = await database.create_container("items", PartitionKey("/id"))
        await container.upsert_item({"id": "a", "n": 1})
        assert (await container.read_item("a", "a"))["n"] == 1
        properties = await client._get_database_account()
    assert properties.WritableLocations == properties.ReadableLocations
    assert [place["databaseAccountEndpoint"] for place in properties.WritableLocations] == [secure.endpoint]


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
async def test_the_sync_sdk_works_on_localhost() -> None:
    def use(endpoint: str, key: str) -> list[str]:
        with sync_client(endpoint, key) as client:
            client.create_database("synchronous")
            [place] = client.get_database_account().WritableLocations
            assert place["databaseAccountEndpoint"] == endpoint
            return [found["id"] for found in client.list_databases()]

    async with CosmosServer("localhost", tls=True) as server:
        assert server.endpoint == f"https://localhost:{server.port}/"
        assert await asyncio.to_thread(use, server.endpoint, server.key) == ["synchronous"]


async def test_whoever_trusts_the_certificate_verifies_every_name_of_this_machine(secure: CosmosServer) -> None:
    pem = await certificate_of(secure)
    assert "PRIVATE" not in pem
    for name in ("localhost", "127.0.0.1", "::1"):
        await shake_hands(secure, pem, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(secure, pem, "cosmos.example.org")


async def test_a_certificate_is_for_one_server_and_one_start(secure: CosmosServer) -> None:
    async with CosmosServer(tls=True) as other:
        pem = await certificate_of(other)
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(secure, pem, "localhost")


async def test_no_private_key_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def watch(context: ssl.SSLContext, certfile: Path, password: str) -> None:
        modes.append(certfile.parent.stat().st_mode & 0o777)
        assert certfile.parent.parent == tmp_path
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in certfile.read_bytes()
        load(context, certfile, password=password)

    load = ssl.SSLContext.load_cert_chain
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with CosmosServer(tls=True) as server:
        assert modes == [0o700]
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - not a blocking method of a path
        assert "CERTIFICATE" in await certificate_of(server)


async def test_plain_http_is_refused_and_the_server_lives_on(secure: CosmosServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not (await reader.read()).startswith(b"HTTP")
    writer.close()
    await certificate_of(secure)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_client_that_never_ends_its_handshake_does_not_keep_the_server_from_stopping(
    loop: type[asyncio.AbstractEventLoop],
) -> None:
    async def stop() -> float:
        async with CosmosServer(tls=True) as server:
            with socket.create_connection(("127.0.0.1", server.port)):
                await certificate_of(server)
                began = time.monotonic()
                await server.stop()
                return time.monotonic() - began

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(stop()) < 5


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_who_still_sends_a_body_that_is_refused_gets_the_refusal(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def send() -> bytes:
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        async with CosmosServer(tls=True) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
            writer.write(b"POST /dbs HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
            for _ in range(100):
                writer.write(b"x" * 65_536)
                await writer.drain()
            async with asyncio.timeout(5):
                answer = await reader.read()
            writer.transport.abort()
            return answer

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(send()).startswith(b"HTTP/1.1 413 ")
