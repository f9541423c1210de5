"""Cuts the connection of a request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.wire.protocol import TRANSPORT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_FLUSH: Final = 1.0  # seconds for the half of an answer to leave, towards a client that may not read
_POLL: Final = 0.001  # seconds


async def cut(scope: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Cut a connection at once; the requests behind this one on it are not handled."""
    scope["extensions"][TRANSPORT].abort()
    # Nobody gets this. It ends the request for uvicorn, which would log it as never answered.
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def cut_within(
    scope: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]], start: dict[str, Any], body: bytes
) -> None:
    """Send the head and half the body of an answer, or half a head if the body is short, and cut the connection."""
    transport = scope["extensions"][TRANSPORT]
    half = body[: len(body) // 2]
    if half:
        await send(start)
        await send({"type": "http.response.body", "body": half, "more_body": True})
    else:
        transport.write(b"HTTP/1.1 %d \r\ncontent-le" % start["status"])
    for _ in range(int(_FLUSH / _POLL)):
        if not transport.get_write_buffer_size():
            break
        await asyncio.sleep(_POLL)
    await cut(scope, send)
