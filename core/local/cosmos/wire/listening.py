"""Opens the sockets on which the server listens, and says in one line why it could not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PORT = 65_535
_BACKLOG = 1024
_ATTEMPTS = 10
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class ListenError(OSError):
    """The server cannot listen there: the port is taken or not allowed; the message names the place and the reason."""


class BadHostError(ListenError):
    """The host does not exist, or is no address of this machine."""


async def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host` that this machine has, all with one port; 0 takes a free one.

    Raises:
        BadHostError: no such host, or none of its addresses is here.
        ListenError: the port is taken or not allowed.
        ValueError: the port is not between 0 and 65,535.
    """
    if not 0 <= port <= MAX_PORT:
        message = f"port {port} is not between 0 and {MAX_PORT}"
        raise ValueError(message)
    addresses = await _resolve(host, port)
    for _ in range(_ATTEMPTS):
        try:
            return _listen(addresses, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port == 0:  # free on one address, taken on another
                continue
            kind = BadHostError if error.errno in _NOT_HERE else ListenError
            raise kind(f"cannot listen on {_place(host, port)}: {_reason(error)}") from error
    message = f"cannot listen on {host}: no port is free on all of its addresses"
    raise ListenError(message)


def address(host: str, port: int) -> str:
    """Return `host:port` as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_host(host: str) -> str:
    """Return the host to which a client on this machine connects: a server on every address is on loopback too."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is replaced, not bound


def is_loopback(listeners: Sequence[socket.socket]) -> bool:
    """Say whether only this machine can reach all of these sockets."""
    return all(ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback for listener in listeners)


async def _resolve(host: str, port: int) -> list[tuple[int, Any]]:
    if not host:  # the resolver would take it for every address
        message = "cannot listen: the host is empty"
        raise BadHostError(message)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"cannot listen on {_place(host, port)}: {_reason(error)}"
        raise BadHostError(message) from error
    return list(dict.fromkeys((int(family), place) for family, _, _, _, place in found))


def _listen(addresses: Sequence[tuple[int, Any]], port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    with ExitStack() as undo:
        for each in addresses:
            family, (host, _, *scope) = each
            try:
                listener = socket.create_server((host, port, *scope), family=family, backlog=_BACKLOG)
            except OSError as error:
                # `localhost` has an IPv6 address in the hosts file of machines without IPv6 too.
                if error.errno in _NOT_HERE and (listeners or each is not addresses[-1]):
                    continue
                raise
            listeners.append(undo.enter_context(listener))
            port = listener.getsockname()[1]
            # Connections inherit it. asyncio sets it only where it made the listener; without it, the end of an answer
            # may wait 40 ms for the client's delayed acknowledgement.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        undo.pop_all()
    return listeners


def _place(host: str, port: int) -> str:
    return address(host, port) if port else host


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno is not None:
        return os.strerror(error.errno)  # the socket module's own text names the address once more
    return getattr(error, "strerror", None) or str(error)
