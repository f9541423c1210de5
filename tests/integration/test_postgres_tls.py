"""Postgres elsewhere is spoken to by TLS, and must prove who it is: to libpq, in real handshakes.

The embedded Postgres knows no TLS, so a terminator stands before it. A test treats this machine as another one.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from core.errors import ConfigurationError
from core.local.cosmos.wire.tls import Certificate
from core.postgres import tls
from core.postgres.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from core.settings import Settings

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.transport.is_local", lambda _: False)
    monkeypatch.setattr(tls, "_has_own_roots", lambda: False)
    for name in ("PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def terminator(certificate: Certificate, host: str, port: int) -> AsyncIterator[int]:
    """Speak TLS in front of a Postgres that does not; yield the port."""
    streams: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(8) == _SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(certificate.context)
            behind, to_it = await asyncio.open_connection(host, port)
            streams.append(to_it)
            await asyncio.gather(pump(reader, to_it), pump(behind, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for stream in streams:
            stream.close()
        await asyncio.sleep(0)  # what was closed ends in the loop


@pytest.fixture
def certificate() -> Certificate:
    return Certificate("127.0.0.1", time.time())


@pytest.fixture
async def behind_tls(settings: Settings, certificate: Certificate) -> AsyncIterator[Settings]:
    parts = urlsplit(settings.require_postgres())
    assert parts.port is not None
    async with terminator(certificate, "127.0.0.1", parts.port) as port:
        dsn = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
        yield settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def answer(settings: Settings) -> int:
    async with open_engine(settings) as engine, engine.connect() as connection:
        return int((await connection.exec_driver_sql("SELECT 1")).scalar_one())


async def refusal(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as refused:
        await answer(settings)
    return str(refused.value)


def with_(settings: Settings, more: str) -> Settings:
    dsn = f"{settings.require_postgres()}?{more}"
    return settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def test_a_server_without_tls_is_refused_with_the_cure(settings: Settings) -> None:
    said = await refusal(settings)
    assert "does not support SSL" in said
    assert "CROSSFEED_PLAINTEXT_HOSTS" in said


async def test_a_server_without_tls_is_taken_where_the_operator_says_so(settings: Settings) -> None:
    assert await answer(with_(settings, "sslmode=disable")) == 1
    assert await answer(settings.model_copy(update={"plaintext_hosts": "127.0.0.1"})) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_cure(behind_tls: Settings) -> None:
    said = await refusal(behind_tls)
    assert "certificate verify failed" in said
    assert "sslrootcert=" in said


async def test_a_certificate_that_is_trusted_is_accepted(
    behind_tls: Settings, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificate.pem)
    assert await answer(with_(behind_tls, f"sslrootcert={roots}")) == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert await answer(behind_tls) == 1


async def test_a_certificate_of_another_name_is_refused(
    behind_tls: Settings, certificate: Certificate, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificate.pem)
    named = behind_tls.require_postgres().replace("@127.0.0.1:", "@db.example.test:")
    dsn = f"{named}?hostaddr=127.0.0.1&sslrootcert={roots}"
    said = await refusal(behind_tls.model_copy(update={"postgres_dsn": SecretStr(dsn)}))
    assert "does not match host name" in said


async def test_encryption_alone_is_had_by_asking_for_it(behind_tls: Settings) -> None:
    assert await answer(with_(behind_tls, "sslmode=require")) == 1
