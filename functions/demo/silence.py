"""Listens while nobody writes: whatever still moves is an echo."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from core.identity import Identity
from core.postgres.canaries import CANARY
from core.postgres.names import literal, partition_key_of, table_name
from functions.demo.stores import fetch

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping
    from functions.demo.observers import CosmosObserver
    from functions.demo.stores import Stores

_LAST_MESSAGE = "SELECT coalesce(max(seq), 0) FROM crossfeed.outbox"
# An event that the mirror takes out of a document is on its way to its consumers; only a state would be an echo.
_MESSAGES = """
    SELECT entity, partition_key, id FROM crossfeed.outbox
    WHERE seq > %(after)s AND event_id IS NULL AND entity <> %(canary)s
"""
_TOMBSTONES = "SELECT entity, partition_key, id, xmin::text || ctid::text FROM crossfeed.tombstone"


async def last_message(stores: Stores) -> int:
    """Return the sequence number of the newest outbox message."""
    async with stores.engine.connect() as connection:
        return int((await connection.exec_driver_sql(_LAST_MESSAGE)).scalar_one())


async def messages_after(stores: Stores, after: int) -> set[Identity]:
    """Return the documents of which an outbox message was written after the one with this sequence number."""
    async with stores.engine.connect() as connection:
        return {Identity(*row) for row in await fetch(connection, _MESSAGES, {"after": after, "canary": CANARY})}


class Silence:
    """A moment in which everything has been carried and nobody writes."""

    def __init__(self, stores: Stores, observer: CosmosObserver) -> None:
        self._stores = stores
        self._observer = observer

    async def broken_by(self, seconds: float, meanwhile: Awaitable[None]) -> set[Identity]:
        """Listen, and return the documents that moved: in a row, a tombstone, a message, or in Cosmos DB."""
        await self._observer.catch_up()
        rows, message, change = await self._rows(), await last_message(self._stores), len(self._observer.changes)
        await meanwhile
        await asyncio.sleep(seconds)
        await self._observer.catch_up()
        now = await self._rows()
        moved_rows = {identity for identity, _ in rows ^ now}
        return moved_rows | await messages_after(self._stores, message) | {*self._observer.changes[change:]}

    async def _rows(self) -> set[tuple[Identity, str]]:
        """Return rows and tombstones with their physical version, which any write changes, even to the same values."""
        async with self._stores.engine.connect() as connection:
            found = await _versions(connection, _TOMBSTONES)
            for mapping in self._stores.mappings:
                found |= await _versions(connection, _rows_of(mapping))
        return found


async def _versions(connection: AsyncConnection, statement: str) -> set[tuple[Identity, str]]:
    return {(Identity(*row[:3]), row[3]) for row in await fetch(connection, statement)}


def _rows_of(mapping: EntityMapping[Any]) -> str:
    columns = f"{literal(mapping.name)}, {partition_key_of(mapping, 't')}, t.id, t.xmin::text || t.ctid::text || ' row'"
    return f"SELECT {columns} FROM {table_name(mapping.table)} t"  # noqa: S608 - quoted names of a mapping
