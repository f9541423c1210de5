"""Runs the embedded Cosmos DB server on an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from core.local.cosmos.account import Account
from core.local.cosmos.auth import EMULATOR_KEY, Authenticator
from core.local.cosmos.routes import Router
from core.local.cosmos.wire import HttpConnection

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from core.local.cosmos.clock import Clock


class CosmosServer:
    """A Cosmos DB account served on `host`:`port`, to be used as `async with CosmosServer() as server:`.

    `port` 0 takes a free one. `key` is the base64 account key. `clock` and `account` may be given to share or move
    them; `server.account` gives in-process access to everything that is stored. With `tls` it speaks HTTPS.
    """

    def __init__(  # noqa: PLR0913 - settings, all with defaults
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = EMULATOR_KEY,
        *,
        account: Account | None = None,
        clock: Clock | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.key = key
        self.account = account or Account(clock)
        self._tls = tls
        self._connections: set[HttpConnection] = set()
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        """The account's address, such as `http://127.0.0.1:8081/`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}/"

    async def start(self) -> None:
        """Accept connections.

        Raises:
            OSError: if the address cannot be bound.
        """
        router = Router(self.account, Authenticator(self.key), lambda: self.endpoint)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: HttpConnection(router.handle, self._connections), self.host, self.port, ssl=self._tls, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop accepting, close all connections and free the port; does nothing if it is not running."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in list(self._connections):
            connection.close()
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        """Start the server."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        await self.stop()
