"""faststream-outbox as its documentation says: what a message costs who writes, and how fast the table is emptied.

Runs in an environment of its own. A line on stdin is a command and a number, the answer on stdout is a figure:

    bare SECONDS        transactions a second that insert a row
    published SECONDS   the same with `broker.publish` in the transaction
    drain MESSAGES      messages a second that a handler that does nothing is given, until the table is empty
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from faststream_outbox import OutboxBroker, make_outbox_table  # type: ignore[import-not-found] # its environment has it
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.bench.inserting import CLIENTS, transactions_per_s

QUEUE = "orders"
BATCH = 500
metadata = sa.MetaData()
outbox = make_outbox_table(metadata, table_name="peer_outbox")
COUNT = sa.select(sa.func.count()).select_from(outbox)


async def published(engine: AsyncEngine, seconds: float) -> float:
    broker = OutboxBroker(engine, outbox_table=outbox, logger=None)

    async def publish(session: AsyncSession, id_: str) -> Any:
        return await broker.publish({"id": id_}, queue=QUEUE, session=session)

    return await transactions_per_s(engine, "peer_rows", seconds, publish)


async def drain(engine: AsyncEngine, messages: int) -> float:
    """Empty the table with the options that were the quickest of those tried (see the page on tuning)."""
    async with engine.begin() as connection:
        await connection.execute(sa.text("TRUNCATE peer_outbox"))
    broker = OutboxBroker(engine, outbox_table=outbox, logger=None)

    @broker.subscriber(  # type: ignore[untyped-decorator] # its types are in its environment
        QUEUE,
        max_workers=CLIENTS,
        fetch_batch_size=BATCH,
        min_fetch_interval=0.001,
        max_fetch_interval=0.05,
        terminal_flush_batch_size=BATCH // CLIENTS,
    )
    async def handle(body: dict[str, str]) -> None:
        """Do nothing."""

    for first in range(0, messages, BATCH):
        async with AsyncSession(engine) as session, session.begin():
            bodies = ({"id": f"id-{number}"} for number in range(first, min(messages, first + BATCH)))
            await broker.publish_batch(*bodies, queue=QUEUE, session=session)
    async with engine.connect() as connection:
        assert (await connection.execute(COUNT)).scalar_one() == messages
    began = time.perf_counter()
    await broker.start()
    left = messages
    while left:
        await asyncio.sleep(0.02)
        async with engine.connect() as connection:
            left = (await connection.execute(COUNT)).scalar_one()
    took = time.perf_counter() - began
    await broker.stop()
    return messages / took


async def main() -> None:
    logging.disable(logging.WARNING)
    database = sa.make_url(os.environ["PEER_DSN"])
    # The same driver for inserts as Crossfeed has; the quickest one, the one of the documentation, for the drain.
    writing = create_async_engine(database.set(drivername="postgresql+psycopg"), pool_size=CLIENTS)
    reading = create_async_engine(database.set(drivername="postgresql+asyncpg"), pool_size=2 * CLIENTS)
    async with writing.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(sa.text("CREATE TABLE peer_rows (LIKE accounts INCLUDING DEFAULTS INCLUDING INDEXES)"))
    for line in sys.stdin:
        what, number = line.split()
        match what:
            case "bare":
                figure = await transactions_per_s(writing, "peer_rows", float(number))
            case "published":
                figure = await published(writing, float(number))
            case _:
                figure = await drain(reading, int(number))
        print(figure, flush=True)
    await writing.dispose()
    await reading.dispose()


if __name__ == "__main__":
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(main())
