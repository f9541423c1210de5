"""What the tests of the log's partitions and slots share: messages by the thousand, cursors that pass, writers held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outbox.retention import maintain
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.settings import Settings
    from outbox.retention import Maintained

SIZE = 1000
START = 3_000_000 - SIZE
"""The end of the partitions that a new schema has is SIZE above this sequence number."""

WRITE = """
    INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, event_id, event)
    SELECT crossfeed.{of}('Account', '["a' || n || '"]', 'a' || n), 'Account', '["a' || n || '"]', 'a' || n, 2, 1,
        false, {event_id}, {event}
    FROM generate_series(1, {count}) AS n
"""


def states(count: int) -> str:
    return WRITE.format(of="slot_of", event_id="NULL", event="NULL", count=count)


def events(count: int) -> str:
    return WRITE.format(of="event_slot_of", event_id="'e' || n", event="'{}'", count=count)


async def begin_small(engine: AsyncEngine) -> None:
    """Let the sequence go on at START, so that partitions of SIZE are wanted: a new schema's are of a million."""
    await run(engine, f"SELECT setval('crossfeed.outbox_seq', {START})")


async def upkeep(engine: AsyncEngine, settings: Settings, keep_s: float = 0) -> Maintained:
    small = settings.model_copy(update={"outbox_partition_size": SIZE, "outbox_keep_s": keep_s})
    return await maintain(engine, small)


async def pass_all(engine: AsyncEngine, carries: str = "%") -> None:
    """Let the cursors pass everything that is visible now, as a relay does that has delivered it."""
    await run(
        engine,
        "UPDATE crossfeed.slot SET seen = pg_current_snapshot(), target = NULL, position = 0"
        f" WHERE carries LIKE '{carries}'".replace("%", "%%"),
    )


async def partitions(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    """The ranges that are there, and whether they are in the default partition."""
    async with engine.connect() as connection:
        return await rows(
            connection,
            "SELECT from_seq, until_seq, in_default FROM crossfeed.outbox_partition WHERE dropped_at IS NULL"
            " ORDER BY from_seq",
        )


async def tables(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        found = await rows(
            connection,
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'crossfeed.outbox'::regclass",
        )
        return {name for (name,) in found}


async def count(engine: AsyncEngine, table: str) -> int:
    async with engine.connect() as connection:
        [(found,)] = await rows(connection, f"SELECT count(*) FROM {table}")
        return int(found)


async def rows(connection: AsyncConnection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.exec_driver_sql(sql)]
