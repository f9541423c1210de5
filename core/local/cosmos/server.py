"""Runs the embedded Cosmos DB server on an event loop."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from core.local.cosmos.clock import Clock
from core.local.cosmos.faults.admin import Admin
from core.local.cosmos.faults.registry import Faults
from core.local.cosmos.operations.auth import EMULATOR_KEY, Authenticator
from core.local.cosmos.operations.routes import Router
from core.local.cosmos.state.account import Account
from core.local.cosmos.storage.restore import open_account
from core.local.cosmos.wire.application import Application
from core.local.cosmos.wire.listening import address, is_loopback, open_listeners, reachable_host
from core.local.cosmos.wire.protocol import CosmosProtocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType

    from core.local.cosmos.messages import Request
    from core.local.cosmos.wire.application import Receive, Send

_KEEP_ALIVE = 24 * 3600  # seconds: whoever pools connections closes them first
_GRACE = 0.5  # seconds
_GLANCE = 0.001  # seconds


class CosmosServer:
    """A Cosmos DB account served on `host`:`port`, to be used as `async with CosmosServer() as server:`.

    A `host` with several addresses, such as `localhost`, is served on all of them. `port` 0 takes a free one. `key` is
    the base64 account key. `clock` and `account` may be given to share or move them; `server.account` gives in-process
    access to everything that is stored. With `tls` the server speaks TLS only, with a certificate made when it starts;
    anybody gets it at `/_explorer/emulator.pem`. With `file` the account that it holds is served from `start` on, and
    every change is kept in it; no other server can use the file until `stop`.
    """

    def __init__(  # noqa: PLR0913 - one per setting
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = EMULATOR_KEY,
        *,
        account: Account | None = None,
        clock: Clock | None = None,
        tls: bool = False,
        file: Path | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.key = key
        self.file = file
        self.account = account or Account(clock)
        self.faults = Faults(lambda: self.account)
        self._scheme = "https" if tls else "http"
        self._running: tuple[uvicorn.Server, list[socket.socket]] | None = None

    @property
    def endpoint(self) -> str:
        """The account's address for clients on this machine, such as `http://127.0.0.1:8081/`."""
        return f"{self._scheme}://{address(reachable_host(self.host), self.port)}/"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server while it runs; the key, which is public, protects nothing."""
        return self._running is not None and is_loopback(self._running[1])

    async def start(self) -> None:
        """Accept connections.

        Raises:
            ListenError: if the address cannot be bound; BadHostError if it is not one of this machine.
            ValueError: if the port is none.
            StorageError: if the file cannot be used.
        """
        with ExitStack() as undo:
            if self.file is not None:
                self.account = open_account(self.file, self.account.clock)
                undo.callback(self.account.close)
            router = Router(self.account, Authenticator(self.key), self._endpoint_for)
            listeners = await open_listeners(self.host, self.port)
            for listener in listeners:
                undo.callback(listener.close)
            self.port = listeners[0].getsockname()[1]
            admin = Admin(self.faults, self.key)
            server = uvicorn.Server(self._config(Application(router.handle, self.faults, admin.handle)))
            server.lifespan = server.config.lifespan_class(server.config)
            # Not `serve()`: it takes the process's signals, which are the caller's; its main loop only looks for them.
            await server.startup(listeners)
            undo.pop_all()
        self._running = server, listeners

    def _config(self, application: Callable[[dict[str, Any], Receive, Send], Awaitable[None]]) -> uvicorn.Config:
        context = None
        if self._scheme == "https":
            from core.local.cosmos.wire.tls import Certificate, CertificateGiver  # noqa: PLC0415 - slow to load

            certificate = Certificate(self.host, Clock().now())
            context = certificate.context
            application = CertificateGiver(application, certificate.pem)
        config = uvicorn.Config(
            application,
            interface="asgi3",
            http=CosmosProtocol,
            ws="none",
            lifespan="off",
            workers=1,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        config.load()
        config.ssl = context  # not through a setting of uvicorn's: it would read the key from a file that stays
        return config

    def _endpoint_for(self, request: Request) -> str:
        """Return the account's address as this client knows it: it may have come through another host or port."""
        host = request.headers.get("host")
        return f"{self._scheme}://{host}/" if host else self.endpoint

    async def stop(self) -> None:
        """Stop accepting, close all connections and free the port; does nothing if it is not running.

        Requests have half a second to end; then their connections are cut. A client that has not finished its TLS
        handshake by then is left to find out for itself.
        """
        if self._running is None:
            return
        (server, listeners), self._running = self._running, None
        # Not `shutdown()`: it takes a tenth of a second at least, and a minute for each handshake that does not end.
        for accepting in server.servers:
            accepting.close()
        for listener in listeners:
            listener.close()
        connections = server.server_state.connections
        for connection in list(connections):
            connection.shutdown()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    while connections:  # noqa: ASYNC110 - uvicorn has no event for it
                        await asyncio.sleep(_GLANCE)
        finally:
            self.faults.stop()
            for connection in list(connections):
                connection.transport.abort()
            if self.file is not None:
                self.account.close()
        await asyncio.sleep(0)  # for the last connections to learn that they were cut

    async def __aenter__(self) -> Self:
        """Start the server."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        await self.stop()
