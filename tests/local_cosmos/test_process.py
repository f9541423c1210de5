"""The server as a process, and what it does with requests that are no good."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from azure.cosmos.aio import CosmosClient

from core.local.cosmos import CosmosServer
from core.local.cosmos.__main__ import main
from core.local.cosmos.storage.restore import open_account
from core.local.cosmos.wire import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def process(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "core.local.cosmos", *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


async def address(started: asyncio.subprocess.Process) -> tuple[str, str]:
    assert started.stdout is not None
    said = json.loads(await started.stdout.readline())
    return said["endpoint"], said["key"]


async def test_the_process_prints_its_address_serves_and_stops_cleanly(tmp_path: Path) -> None:
    file = tmp_path / "account.sqlite"
    async with process("--host", "localhost", "--tls", "--file", str(file)) as started:
        endpoint, key = await address(started)
        assert endpoint.startswith("https://localhost:")
        async with CosmosClient(endpoint, key) as client:
            await client.create_database("db")
            started.send_signal(signal.SIGINT)
            _, errors = await started.communicate()
    assert (started.returncode, errors) == (0, b"")
    account = open_account(file)
    assert list(account.databases) == ["db"]
    account.close()


async def test_the_process_stops_when_whoever_started_it_is_gone() -> None:
    async with process("--until-eof") as started:
        await address(started)
        assert started.stdin is not None
        started.stdin.close()
        _, errors = await asyncio.wait_for(started.communicate(), 10)
    assert (started.returncode, errors) == (0, b"")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; return its exit code and what it said."""

    def run(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cosmos", *options])
        try:
            code = main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--port", "{port}"], 1, "cannot listen on 127.0.0.1:{port}: Address already in use"),
        (["--host", "nowhere.invalid"], 2, "cannot listen on nowhere.invalid: "),
        (["--host", "203.0.113.1"], 2, "cannot listen on 203.0.113.1: Cannot assign requested address"),
        (["--host", ""], 2, "cannot listen: the host is empty"),
        (["--file", "{directory}"], 2, "{directory} is a directory"),
        (["--port", "65536"], 2, "65536 is not between 0 and 65535"),
        (["--port", "-1"], 2, "-1 is not between 0 and 65535"),
    ],
    ids=lambda value: "" if isinstance(value, int | str) else value[0],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        facts = {"port": taken.getsockname()[1], "directory": tmp_path}
        ended, output, errors = run(*(option.format(**facts) for option in options))
    assert (ended, output) == (code, "")
    assert said.format(**facts) in errors.splitlines()[-1]


async def test_a_name_is_served_on_all_of_its_addresses_and_with_one_port() -> None:
    async with CosmosServer("localhost") as server:
        for found in {str(entry[4][0]) for entry in socket.getaddrinfo("localhost", server.port)}:
            _, writer = await asyncio.open_connection(found, server.port)
            writer.close()


def test_all_addresses_get_one_port_and_those_that_are_not_here_are_left_out() -> None:
    absent = [(socket.AF_INET, (f"203.0.113.{number}", 0)) for number in range(2)]
    here = [(socket.AF_INET, ("127.0.0.1", 0)), *([(socket.AF_INET6, ("::1", 0, 0, 0))] if has_ipv6() else [])]
    listeners = listening._listen([absent[0], *here, absent[1]], 0)
    try:
        names = [listener.getsockname()[:2] for listener in listeners]
        assert [name for name, _ in names] == [place[0] for _, place in here]
        assert len({port for _, port in names}) == 1
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize(
    ("host", "shown", "alone"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", False),
        pytest.param("::1", "[::1]", True, marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")),
    ],
)
async def test_an_endpoint_is_one_that_clients_here_can_use(host: str, shown: str, alone: bool) -> None:
    async with CosmosServer(host) as server, CosmosClient(server.endpoint, server.key) as client:
        assert [found async for found in client.list_databases()] == []
        assert server.endpoint == f"http://{shown}:{server.port}/"
        assert server.is_loopback is alone


async def test_a_client_that_came_by_another_name_is_told_that_name(server: CosmosServer) -> None:
    endpoint = f"http://localhost:{server.port}/"
    async with CosmosClient(endpoint, server.key) as client:
        properties = await client._get_database_account()
    assert [place["databaseAccountEndpoint"] for place in properties.WritableLocations] == [endpoint]


@pytest.mark.parametrize("signature", [None, "type%3Dmaster%26ver%3D1.0%26sig%3Dd3Jvbmc%3D", "nonsense"])
async def test_a_request_that_is_not_signed_with_the_key_is_unauthorized(
    server: CosmosServer, signature: str | None
) -> None:
    headers = {"x-ms-date": "Mon, 01 Jan 2024 00:00:00 GMT"} | ({"authorization": signature} if signature else {})
    async with aiohttp.ClientSession(headers=headers) as session, session.get(server.endpoint + "dbs") as answer:
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
