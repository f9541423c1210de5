"""A client that only sends, or is gone, costs the server no memory."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import weakref
from typing import TYPE_CHECKING

import pytest

from core.local.cosmos.faults import Constant, Delay, Rule
from tests.local_cosmos.hostile_steps import (
    LAST,
    PLAIN,
    POST,
    answers,
    connect,
    connections,
    eventually_without_connections,
    statuses,
)

if TYPE_CHECKING:
    from core.local.cosmos import CosmosServer

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


async def test_a_client_that_reads_nothing_is_not_read_from(server: CosmosServer) -> None:
    _, writer = await connect(server)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(PLAIN * 1_000_000)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.drain(), 0.4)
    (connection,) = connections(server)
    assert connection.transport.get_write_buffer_size() < 1 << 20
    assert statuses(await answers(server, LAST)) == [401]
    writer.transport.abort()
    await eventually_without_connections(server)


@pytest.mark.parametrize("latency", [0, 0.002])
async def test_requests_are_not_read_faster_than_they_are_answered(server: CosmosServer, latency: float) -> None:
    if latency:
        server.faults.add(Rule(do=Delay(duration=Constant(seconds=latency))))
    reader, writer = await connect(server)
    writer.write(PLAIN * 300_000)
    for _ in range(100):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    (connection,) = connections(server)
    assert len(connection.pipeline) * len(PLAIN) < 1 << 19, "more than two reads of 256 KiB"
    server.faults.clear()
    writer.transport.abort()
    await eventually_without_connections(server)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /dbs HT", POST + b"content-length: 9\r\n\r\n{", PLAIN, PLAIN + b"GE", PLAIN * 50]
)
@pytest.mark.parametrize("reset", [True, False])
async def test_nothing_is_kept_of_a_connection_that_is_gone(server: CosmosServer, sent: bytes, reset: bool) -> None:
    _, writer = await connect(server)
    writer.write(sent)
    await asyncio.sleep(0.02)
    (connection,) = connections(server)
    gone = weakref.ref(connection)
    del connection
    if reset:  # an abort with this option set sends a reset, not an end
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
    await eventually_without_connections(server)
    await asyncio.sleep(0.01)
    gc.collect()
    assert gone() is None
