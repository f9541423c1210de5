"""Sends statements one after the other without waiting for the answers in between, inside of one transaction.

What is sent is worked on while the next is being made ready, and a savepoint costs no waiting. Each ends with a Sync
inside an open transaction, so a pooler in transaction mode keeps the session.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import psycopg
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from core.postgres.engine import raw, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection


Answer: TypeAlias = "psycopg.AsyncCursor[tuple[Any, ...]]"
Statement: TypeAlias = tuple[str] | tuple[str, dict[str, Any]]
"""SQL, and its parameters where it has any."""


class Sends(Protocol):
    """A connection, or a pipeline on one."""

    async def exec_driver_sql(self, statement: str, parameters: dict[str, Any], /) -> Any:  # noqa: ANN401 - either's
        """Run one statement."""
        ...


class Pipeline:
    """Statements under way.

    Args:
        driver: the connection, in pipeline mode.

    """

    def __init__(self, driver: psycopg.AsyncConnection[Any]) -> None:
        self._driver = driver
        self.first: list[Answer] = []
        """Of what came before the savepoint."""

    async def exec_driver_sql(self, statement: str, parameters: dict[str, Any] | None = None, /) -> Answer:
        """Send one statement; when the pipeline has ended, the cursor that is returned has its rows.

        It is prepared where the connection prepares at all (core.postgres.prepared).
        """
        cursor = self._driver.cursor(binary=True)
        await cursor.execute(statement, parameters, prepare=True)
        return cursor


@asynccontextmanager
async def pipelined(connection: AsyncConnection) -> AsyncIterator[Pipeline]:
    """Send statements; what Postgres refuses is raised at the end of the block, and of the others none is done.

    Args:
        connection: in a transaction; not to be used inside the block but by what is yielded.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres refused a statement, or did not answer.

    """
    driver = await raw(connection)
    try:
        async with driver.pipeline():
            yield Pipeline(driver)
    except psycopg.Error as error:
        if driver.closed:
            await connection.invalidate()
        raise DBAPIError("", None, error, hide_parameters=True) from error


@asynccontextmanager
async def savepoint(
    connection: AsyncConnection, *, first: Sequence[Statement] = (), last: Sequence[Statement] = ()
) -> AsyncIterator[Pipeline]:
    """Do all that is sent inside, or nothing; what Postgres refuses is raised at the end of the block.

    Args:
        connection: in a transaction; not to be used inside the block but by what is yielded.
        first: statements that come before, and stay.
        last: statements that are inside as well, at the end.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres refused a statement, or did not answer.

    """
    try:
        async with pipelined(connection) as pipeline:
            pipeline.first = [await pipeline.exec_driver_sql(*statement) for statement in first]
            await pipeline.exec_driver_sql("SAVEPOINT crossfeed_step")
            yield pipeline
            for statement in last:
                await pipeline.exec_driver_sql(*statement)
            await pipeline.exec_driver_sql("RELEASE crossfeed_step")
    except Exception:
        # Of what failed before the savepoint was made, or took the connection along, there is nothing to roll back.
        with suppress(DBAPIError, InvalidRequestError):
            await run(connection, "ROLLBACK TO crossfeed_step", "RELEASE crossfeed_step")
        raise
