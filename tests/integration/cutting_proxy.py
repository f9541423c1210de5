"""A stand-in for the network between a process and Postgres, which loses a commit or its answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from core.postgres.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings


class CuttingProxy:
    """A TCP proxy in front of Postgres that can cut a connection at the moment a COMMIT passes through it."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.cut: str = "never"
        self.refuse = False
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[CuttingProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(*self._to)
        answering = asyncio.create_task(self._copy(there_reader, writer))
        try:
            while data := await reader.read(65536):
                cut = self.cut if b"COMMIT\0" in data else "never"
                if cut != "never":
                    self.cut = "never"  # one connection, one time
                if cut == "before":
                    break
                there_writer.write(data)
                await there_writer.drain()
                if cut == "after":
                    answering.cancel()  # the answer never arrives
                    await asyncio.sleep(0.2)
                    break
        finally:
            answering.cancel()
            writer.transport.abort()
            there_writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxy_of(settings: Settings) -> AsyncIterator[CuttingProxy]:
    """A proxy in front of the database of these settings."""
    address = urlsplit(settings.require_postgres())
    assert address.hostname is not None
    assert address.port is not None
    async with CuttingProxy(address.hostname, address.port).listening() as listening:
        yield listening


@asynccontextmanager
async def engine_through(settings: Settings, proxy: CuttingProxy) -> AsyncIterator[AsyncEngine]:
    """An engine on that database whose connections go through the proxy."""
    address = urlsplit(settings.require_postgres())
    dsn = address._replace(netloc=f"{address.username}:{address.password}@127.0.0.1:{proxy.port}").geturl()
    async with open_engine(settings.model_copy(update={"postgres_dsn": type(settings.postgres_dsn)(dsn)})) as opened:  # type: ignore[misc]
        yield opened
