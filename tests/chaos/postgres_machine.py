"""A Postgres server of a test's own that can be restarted, crashed, and told to cut connections."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from core.local.postgres import EmbeddedPostgres
from tests.stores import free_port, install, memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CUT = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name LIKE %s AND pid <> pg_backend_pid() AND datname = current_database()
"""


_LIFE = "SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer'"


class PostgresMachine:
    """One database with everything installed, at one address, whatever happens to its server."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._changing = asyncio.Lock()
        self.dsn = ""

    async def restart(self) -> None:
        """Stop it as an administrator does, sessions are ended, and start it again."""
        async with self._changing:
            await self._server.__aexit__(None, None, None)
            await self._server.__aenter__()

    async def crash(self) -> None:
        """Let it lose its memory in the middle of everything; it recovers from its log."""
        async with self._changing:
            os.kill(self._server.pid, signal.SIGQUIT)
        await self.restart()

    async def kill_a_session(self) -> None:
        """Let the kernel end one session's process, as it does for memory: all of them end, and it recovers."""
        before = await self._life()
        async with await self.connect() as session:
            os.kill(session.info.backend_pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while await self._life() in {None, before}:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)

    async def _life(self) -> object:
        """Since when it has had its memory, None while it has none."""
        try:
            async with await self.connect() as session:
                found = await session.execute(_LIFE)
                return await found.fetchone()
        except psycopg.OperationalError:
            return None

    async def cut(self, application: str = "crossfeed%") -> int:
        """End the sessions of an application, and return how many there were."""
        async with await self.connect() as session:
            [count] = await (await session.execute(_CUT, [application])).fetchone() or (0,)
        return int(count)

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open a session of somebody who knows nothing of Crossfeed."""
        return await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)


@asynccontextmanager
async def postgres_machine() -> AsyncIterator[PostgresMachine]:
    """Yield a running one; it and its directory are gone afterwards."""
    parent = await asyncio.to_thread(_directory)
    # The machine itself stays up, so what was written is there after a crash without being forced to the disk.
    server = EmbeddedPostgres(parent / "postgres", port=free_port(), settings={"fsync": "off"})
    try:
        async with server:
            machine = PostgresMachine(server)
            machine.dsn = await server.create_database(f"machine_{uuid.uuid4().hex}")
            await install(machine.dsn)
            yield machine
    finally:
        await asyncio.to_thread(shutil.rmtree, parent, ignore_errors=True)


def _directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="crossfeed-machine-", dir=memory()))
    path.chmod(0o755)  # the server may run as another user
    return path
