"""Connections on which tests say what they like, byte by byte, and what they are answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.local.cosmos import CosmosServer
    from core.local.cosmos.wire.protocol import CosmosProtocol


PLAIN = b"GET /dbs HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /dbs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
POST = b"POST /dbs HTTP/1.1\r\nhost: x\r\n"


def connections(server: CosmosServer) -> set[CosmosProtocol]:
    assert server._running is not None
    return server._running[0].server_state.connections  # type: ignore[return-value]


async def eventually_without_connections(server: CosmosServer) -> None:
    async with asyncio.timeout(2):
        while connections(server):  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)


async def connect(server: CosmosServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(server.host, server.port)


async def answers(server: CosmosServer, *pieces: bytes) -> list[bytes]:
    """Send the pieces, one segment each, and return the answers up to the end of the connection."""
    reader, writer = await connect(server)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    received = await asyncio.wait_for(reader.read(), 3)
    writer.close()
    return received.split(b"HTTP/1.1 ")[1:]


def statuses(received: list[bytes]) -> list[int]:
    return [int(answer[:3]) for answer in received]
