"""Runs the embedded Cosmos DB in a process of its own, which ends with the one that started it, however that ends."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from core.errors import CrossfeedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_STOP_TIMEOUT_S = 5.0


class EmbeddedCosmosError(CrossfeedError):
    """The embedded Cosmos DB could not be started; the message ends with what it said."""


@asynccontextmanager
async def cosmos_process(file: Path | None = None) -> AsyncIterator[tuple[str, str]]:
    """Yield the endpoint and the key of a server that lives as long as the context.

    Args:
        file: what keeps its documents; None: they live in memory.

    Raises:
        EmbeddedCosmosError: it did not start.

    """
    # The kernel closes its standard input when this process ends, even by `kill -9`. A session of its own: Ctrl-C on
    # the terminal is for whoever uses the server, and ends it last.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "core.local.cosmos", "--until-eof"),
        *(() if file is None else ("--file", file)),
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
            msg = f"the embedded Cosmos DB did not start: {(await watching).removeprefix('error: ')}"
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
