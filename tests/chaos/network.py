"""What lies between processes and their servers: connections that are cut, or fall silent and go on later."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator
    from random import Random

    from core.settings import Settings

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER: closing sends a reset, and nothing that is still on its way."""


class Link:
    """One connection through it."""

    def __init__(self, *ends: StreamWriter) -> None:
        self._ends = ends
        self.flows = asyncio.Event()
        self.flows.set()

    def cut(self) -> None:
        """Reset it at both ends; what was on its way is lost."""
        for end in self._ends:
            if not end.is_closing():
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()
        self.flows.set()

    async def pass_on(self, source: StreamReader, target: StreamWriter) -> None:
        """Pass on what one side says, until either is gone."""
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                await self.flows.wait()
                target.write(data)
                await target.drain()


class Network:
    """Passes on to a port of this machine. `port` is its own."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0

    def reached_by(self, settings: Settings) -> Settings:
        """Return the settings of those that reach Postgres through it."""
        dsn = urlsplit(settings.require_postgres())
        netloc = f"{dsn.netloc.rpartition(':')[0]}:{self.port}"
        return settings.model_copy(update={"postgres_dsn": SecretStr(dsn._replace(netloc=netloc).geturl())})

    def cut(self) -> None:
        """Cut every connection."""
        for link in tuple(self._links):
            link.cut()

    def hold(self) -> None:
        """Let every connection fall silent; what is said meanwhile is on its way."""
        for link in self._links:
            link.flows.clear()

    def go_on(self) -> None:
        """Let everything that is on its way arrive, also what nobody waits for any more."""
        for link in self._links:
            link.flows.set()

    def silence(self, rng: Random) -> list[Link]:
        """Let about half of the connections fall silent, and return them: nobody is told."""
        links = [link for link in self._links if rng.random() < 0.5]
        for link in links:
            link.flows.clear()
        return links

    def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve a connection in a task of its own."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """Cut everything, and wait until all tasks have ended."""
        self.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # it is being restarted
            writer.transport.abort()
            return
        link = Link(writer, server)
        self._links.add(link)
        try:
            passing = [asyncio.ensure_future(link.pass_on(*way)) for way in ((reader, server), (answers, writer))]
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
        finally:
            self._links.discard(link)
            for end in (writer, server):
                end.close()


@asynccontextmanager
async def network(target: int) -> AsyncIterator[Network]:
    """Yield what passes on to the port `target` of this machine."""
    passing = Network(target)
    server = await asyncio.start_server(passing.accept, "127.0.0.1", 0)
    passing.port = server.sockets[0].getsockname()[1]
    try:
        yield passing
    finally:
        server.close()
        await passing.close()
