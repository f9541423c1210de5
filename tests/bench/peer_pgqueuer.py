"""pgqueuer as its documentation says: a table of jobs that one worker takes in batches, and logs when they are done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg  # type: ignore[import-not-found] # its environment has it
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver  # type: ignore[import-not-found] # its environment has it
from pgqueuer.qm import QueueManager  # type: ignore[import-not-found] # its environment has it
from pgqueuer.queries import Queries  # type: ignore[import-not-found] # its environment has it
from pgqueuer.types import QueueExecutionMode  # type: ignore[import-not-found] # its environment has it

from tests.bench.peer_process import serve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

ENTRYPOINT = "orders"
BATCH = 500
"""Jobs taken at once: the quickest of 50, 100, 250, 500, 1,000 and 2,000."""


class PgQueuer:
    """See tests.bench.peer_process.Peer."""

    driver = "asyncpg"  # its driver for psycopg takes no connection that is in a transaction
    quickest: ClassVar[Mapping[str, Any]] = {"batch_size": BATCH}

    def __init__(self, database: URL) -> None:
        self._dsn = database.set(drivername="postgresql").render_as_string(hide_password=False)

    async def install(self, writing: AsyncEngine) -> None:
        connection = await asyncpg.connect(self._dsn)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    async def publish(self, session: AsyncSession, id_: str) -> Any:
        raw = await (await session.connection()).get_raw_connection()
        return await Queries(AsyncpgDriver(raw.driver_connection)).enqueue(ENTRYPOINT, id_.encode())

    async def drain(self, messages: int, **options: Any) -> float:
        async with asyncpg.create_pool(self._dsn) as pool:
            await pool.execute("TRUNCATE pgqueuer, pgqueuer_log")
            manager = QueueManager(Queries(AsyncpgPoolDriver(pool)))

            @manager.entrypoint(ENTRYPOINT)  # type: ignore[untyped-decorator] # its types are in its environment
            async def handle(job: Any) -> None:
                """Do nothing."""

            for first in range(0, messages, BATCH):
                bodies = [f"id-{number}".encode() for number in range(first, min(messages, first + BATCH))]
                await manager.queries.enqueue([ENTRYPOINT] * len(bodies), bodies, [0] * len(bodies))
            began = time.perf_counter()
            await manager.run(mode=QueueExecutionMode.drain, **options)
            took = time.perf_counter() - began
            assert await pool.fetchval("SELECT count(*) FROM pgqueuer") == 0
        return messages / took


if __name__ == "__main__":
    serve(PgQueuer)
