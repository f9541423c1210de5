"""Watch both stores from outside, as any reader could, and tell the ledger which states are there."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.content import ENVELOPE
from core.cosmos.feed import feed_ranges, pages
from core.envelope import Origin, is_internal
from core.errors import DocumentRefusedError
from core.postgres.held import read_held
from core.stamp import Stamp
from functions.demo.ledger import Sighting

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.feed import FeedRange
    from core.identity import Identity
    from core.mapping import EntityMapping
    from functions.demo.ledger import Ledger
    from functions.demo.stores import Stores

PAUSE_S = 0.02
IDLE_PAUSE_S = 0.1
"""Who waits for nothing looks less often: looking costs what is being watched."""
CHUNK = 200
PAGE_SIZE = 100


@dataclass(slots=True)
class _Cursor:
    mapping: EntityMapping[Any]
    feed_range: FeedRange
    continuation: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CosmosObserver:
    """Reads every change feed from the beginning with positions of its own.

    `changes` grows by the identity of every change that the feeds showed, our own documents apart.
    """

    def __init__(self, stores: Stores, ledger: Ledger) -> None:
        self._stores = stores
        self._ledger = ledger
        self._cursors: list[_Cursor] = []
        self.changes: list[Identity] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        for mapping in self._stores.mappings:
            ranges = await feed_ranges(self._stores.cosmos.container(mapping))
            self._cursors += [_Cursor(mapping, feed_range) for feed_range in ranges]
        async with asyncio.TaskGroup() as group:
            for cursor in self._cursors:
                group.create_task(self._follow(cursor))

    async def catch_up(self) -> None:
        """See everything that is in the feeds now."""
        for cursor in self._cursors:
            await self._read(cursor)

    async def _follow(self, cursor: _Cursor) -> None:
        while True:
            await self._read(cursor)
            await asyncio.sleep(PAUSE_S if self._ledger.is_waiting_for(Origin.COSMOS) else IDLE_PAUSE_S)

    async def _read(self, cursor: _Cursor) -> None:
        async with cursor.lock:
            container = self._stores.cosmos.container(cursor.mapping)
            async for page in pages(container, cursor.feed_range, cursor.continuation, PAGE_SIZE):
                cursor.continuation = page.continuation
                at = time.perf_counter()
                for document in page.documents:
                    self._see(cursor.mapping, document, at)

    def _see(self, mapping: EntityMapping[Any], document: Document, at: float) -> None:
        if is_internal(document):
            return
        try:
            identity = mapping.identity(document)
        except DocumentRefusedError:  # foreign, and no entity
            return
        self.changes.append(identity)
        self._ledger.seen(Origin.COSMOS, identity, Sighting(_claimed_stamp(document), str(document["_etag"]), at))


class PostgresObserver:
    """Asks Postgres again and again for the documents that the ledger waits for."""

    def __init__(self, stores: Stores, ledger: Ledger) -> None:
        self._stores = stores
        self._ledger = ledger

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            started = time.perf_counter()
            waiting = self._ledger.waiting_for(Origin.POSTGRES, CHUNK)
            if waiting:
                await self._look(waiting)
            await asyncio.sleep(max(PAUSE_S, time.perf_counter() - started))

    async def _look(self, waiting: list[Identity]) -> None:
        by_entity: dict[str, list[Identity]] = {}
        for identity in waiting:
            by_entity.setdefault(identity.entity, []).append(identity)
        async with self._stores.engine.connect() as connection:
            for entity, identities in by_entity.items():
                found = await read_held(connection, self._stores.mappings.named(entity), identities)
                at = time.perf_counter()
                for held in found:
                    if held.stamp is not None:
                        newest = held.live_row or held.tombstone or held.row
                        etag = newest.taken_etag if newest is not None else None
                        self._ledger.seen(Origin.POSTGRES, held.identity, Sighting(held.stamp, etag, at))


def _claimed_stamp(document: Document) -> Stamp | None:
    """Return the stamp that a document claims; whether it is true is found out when everything is compared."""
    envelope = document.get(ENVELOPE)
    if not isinstance(envelope, dict):
        return None
    epoch, version = envelope.get("epoch"), envelope.get("version")
    return Stamp(epoch, version) if isinstance(epoch, int) and isinstance(version, int) else None
