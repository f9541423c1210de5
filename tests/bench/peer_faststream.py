"""faststream-outbox as its documentation says: a table of messages that workers lease, handle and delete."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from faststream_outbox import OutboxBroker, make_outbox_table  # type: ignore[import-not-found] # its environment has it
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.bench.inserting import CLIENTS
from tests.bench.peer_process import serve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

QUEUE = "orders"
BATCH = 500
FETCH = 2000
"""Rows fetched at once, and deleted at once: with CLIENTS workers the quickest of 1, 2, 4, 8 and 16 workers that fetch
100, 500 or 2,000 rows and delete one, a worker's share, or all of them, by messages a second of CPU time. One deletion
a message, its default, cost three quarters of the speed; psycopg instead of asyncpg made no difference worth the name.
"""
outbox = make_outbox_table(sa.MetaData(), table_name="peer_outbox")
COUNT = sa.select(sa.func.count()).select_from(outbox)


class FastStream:
    """See tests.bench.peer_process.Peer."""

    driver = "psycopg"  # as Crossfeed's inserts
    quickest: ClassVar[Mapping[str, Any]] = {
        "max_workers": CLIENTS,
        "fetch_batch_size": FETCH,
        "min_fetch_interval": 0.001,
        "max_fetch_interval": 0.05,
        "terminal_flush_batch_size": FETCH,
    }

    def __init__(self, database: URL) -> None:
        self._reading = create_async_engine(
            database.set(drivername="postgresql+asyncpg"),  # as in its documentation
            pool_size=2 * CLIENTS,
        )

    async def install(self, writing: AsyncEngine) -> None:
        self._publishing = OutboxBroker(writing, outbox_table=outbox, logger=None)
        async with writing.begin() as connection:
            await connection.run_sync(outbox.metadata.create_all)

    async def publish(self, session: AsyncSession, id_: str) -> Any:
        return await self._publishing.publish({"id": id_}, queue=QUEUE, session=session)

    async def drain(self, messages: int, **options: Any) -> float:
        engine = self._reading
        async with engine.begin() as connection:
            await connection.execute(sa.text("TRUNCATE peer_outbox"))
        broker = OutboxBroker(engine, outbox_table=outbox, logger=None)

        @broker.subscriber(QUEUE, **options)  # type: ignore[untyped-decorator] # its types are in its environment
        async def handle(body: dict[str, str]) -> None:
            """Do nothing."""

        for first in range(0, messages, BATCH):
            async with AsyncSession(engine) as session, session.begin():
                bodies = ({"id": f"id-{number}"} for number in range(first, min(messages, first + BATCH)))
                await broker.publish_batch(*bodies, queue=QUEUE, session=session)
        left = await self._left()
        assert left == messages
        began = time.perf_counter()
        await broker.start()
        while left:
            await asyncio.sleep(0.02)
            left = await self._left()
        took = time.perf_counter() - began
        await broker.stop()
        return messages / took

    async def _left(self) -> int:
        async with self._reading.connect() as connection:
            return int((await connection.execute(COUNT)).scalar_one())


if __name__ == "__main__":
    serve(FastStream)
