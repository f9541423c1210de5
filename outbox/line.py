"""Keeps one connection for the many small reads of a relay: no checkout and no ping for each, and no planning.

Their statements are prepared where the connection leads to Postgres itself. Behind a pooler the next statement may
meet another session, so there they are not. A connection that failed, or was left in the middle, is never used again;
that the next one leads to the same run of the same server is what each statement's answer says (outbox.cursor.SERVER).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from core.postgres.prepared import let_prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

LEAST_POOL: Final = 4
"""Of a pool smaller than this no connection is kept: heartbeats and cursors need some as well."""


class Line:
    """One connection in autocommit, for one user at a time.

    Args:
        engine: of whose pool it is.
        pool_size: how many connections there are.
        clock: seconds.

    """

    def __init__(self, engine: AsyncEngine, pool_size: int, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._is_kept = pool_size >= LEAST_POOL
        self._clock = clock
        self._turn = asyncio.Lock()
        self._connection: AsyncConnection | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncConnection]:
        """Yield the connection; whatever is raised in the block ends it, and the next user gets another.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres does not answer.

        """
        async with self._turn:
            try:
                yield await self._open()
            except BaseException:
                await self._end()
                raise
            if not self._is_kept:
                await self._give_back()

    async def close(self) -> None:
        """Give the connection back; the next use opens another."""
        async with self._turn:
            await self._give_back()

    async def _open(self) -> AsyncConnection:
        if self._connection is None:
            self._connection = await self._engine.connect()
            await self._connection.execution_options(isolation_level="AUTOCOMMIT")
        if self._is_kept:
            await let_prepare(self._connection, self._clock)
        return self._connection

    async def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
