"""Runs the embedded Cosmos DB server on an event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Self

import uvicorn

from core.local.cosmos.account import Account
from core.local.cosmos.auth import EMULATOR_KEY, Authenticator
from core.local.cosmos.routes import Router
from core.local.cosmos.wire import Application

if TYPE_CHECKING:
    from types import TracebackType

    from core.local.cosmos.clock import Clock

_BACKLOG = 1024
_KEEP_ALIVE = 24 * 3600  # seconds: whoever pools connections closes them first
_GRACE = 0.5  # seconds


class CosmosServer:
    """A Cosmos DB account served on `host`:`port`, to be used as `async with CosmosServer() as server:`.

    `port` 0 takes a free one. `key` is the base64 account key. `clock` and `account` may be given to share or move
    them; `server.account` gives in-process access to everything that is stored.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = EMULATOR_KEY,
        *,
        account: Account | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.key = key
        self.account = account or Account(clock)
        self._running: tuple[uvicorn.Server, socket.socket] | None = None

    @property
    def endpoint(self) -> str:
        """The account's address, such as `http://127.0.0.1:8081/`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    async def start(self) -> None:
        """Accept connections.

        Raises:
            OSError: if the address cannot be bound.
        """
        router = Router(self.account, Authenticator(self.key), lambda: self.endpoint)
        server = uvicorn.Server(_config(Application(router.handle)))
        server.lifespan = server.config.lifespan_class(server.config)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
        # Connections inherit it. asyncio sets it only where it made the listener; without it, every answer, which
        # uvicorn writes in two parts, waits 40 ms for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        # Not `serve()`: it takes the process's signals, which are the caller's; its main loop only looks for them.
        await server.startup([listener])
        self._running = server, listener

    async def stop(self) -> None:
        """Stop accepting, close all connections and free the port; does nothing if it is not running.

        Requests have half a second to end; then their connections are cut.
        """
        if self._running is None:
            return
        (server, listener), self._running = self._running, None
        cut = asyncio.get_running_loop().call_later(_GRACE, _cut, server)
        try:
            await server.shutdown([listener])
        finally:
            cut.cancel()

    async def __aenter__(self) -> Self:
        """Start the server."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        await self.stop()


def _config(application: Application) -> uvicorn.Config:
    config = uvicorn.Config(
        application,
        interface="asgi3",
        http="httptools",
        ws="none",
        lifespan="off",
        workers=1,
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    config.load()
    return config


def _cut(server: uvicorn.Server) -> None:
    for connection in list(server.server_state.connections):
        connection.transport.abort()
