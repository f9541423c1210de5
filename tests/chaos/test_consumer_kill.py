"""`kill -9` in the middle of a handler undoes what all handlers of its page did, and the next process does it once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.consumer_steps import DIARY, Room, document
from tests.integration.relay_steps import until

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.settings import Settings

ROOT = Path(__file__).parents[2]


async def test_a_process_that_is_killed_inside_a_handler_leaves_nothing_behind(
    engine: AsyncEngine, settings: Settings
) -> None:
    room = Room(engine, settings)
    await room.run(DIARY)
    page = [document(1), document(1, "b"), document(2)]
    async with inside_the_last_handler(settings, page) as process:
        next_one = asyncio.ensure_future(room.apply(*page, document(3)))
        await until(lambda: waiting(room))
        assert await room.rows("SELECT * FROM diary") == []
        process.kill()
        await next_one
    assert await room.said("one") == await room.said("two") == [1, 2, 3]
    assert await room.said("one", "b") == await room.said("two", "b") == [1]


@asynccontextmanager
async def inside_the_last_handler(settings: Settings, page: list[Document]) -> AsyncIterator[Process]:
    """Start a process and let it come as far as that; it is not there any more afterwards."""
    environment = {**os.environ, "CROSSFEED_POSTGRES_DSN": settings.require_postgres()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.consumer_process"),
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(page).encode())
        process.stdin.write_eof()
        assert await process.stdout.readline() == b"inside\n"
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def waiting(room: Room) -> bool:
    """Whether somebody waits for what the process holds."""
    return bool(
        await room.rows("""
            SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted
        """)
    )
