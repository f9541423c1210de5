"""Runs the embedded Cosmos DB in a process of its own, which ends with the one that started it, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from core.errors import CrossfeedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_STOP_TIMEOUT_S = 5.0


class EmbeddedCosmosError(CrossfeedError):
    """The embedded Cosmos DB could not be started; the message ends with what it said."""


@asynccontextmanager
async def cosmos_process() -> AsyncIterator[tuple[str, str]]:
    """Yield the endpoint and the key of a server that lives as long as the context.

    Raises:
        EmbeddedCosmosError: it did not start.

    """
    # A session of its own: Ctrl-C on the terminal is for whoever uses the server, and ends it last.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "core.local.cosmos_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    watching = asyncio.ensure_future(_last_line(process.stderr))
    try:
        line = await process.stdout.readline()
        if not line:
            msg = f"the embedded Cosmos DB did not start: {await watching}"
            raise EmbeddedCosmosError(msg)
        address = json.loads(line)
        yield address["endpoint"], address["key"]
    finally:
        await asyncio.shield(_end(process, watching))


async def _end(process: asyncio.subprocess.Process, watching: asyncio.Future[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    await watching


async def _last_line(stream: asyncio.StreamReader) -> str:
    """Read until the end, so that the process never waits for a reader; return the last line."""
    last = b"it said nothing"
    async for line in stream:
        last = line.strip() or last
    return last.decode(errors="replace")


async def _serve() -> None:
    from core.local.cosmos.server import CosmosServer  # noqa: PLC0415 - needs the extra `local`, the parent does not

    async with CosmosServer() as server:
        sys.stdout.write(json.dumps({"endpoint": server.endpoint, "key": server.key}) + "\n")
        sys.stdout.flush()
        # The kernel closes the other end when the parent ends, even by `kill -9`.
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    """Serve until standard input is closed."""
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    main()
