"""Watch both stores from outside, as any reader could, and tell the ledger which states are there."""

from __future__ import annotations

import asyncio
import time
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


class CosmosObserver:
    """Reads every change feed from the beginning with positions of its own.

    `changes` grows by the identity of every change that the feeds showed, our own documents apart.
    """

    def __init__(self, stores: Stores, ledger: Ledger) -> None:
        self._stores = stores
        self._ledger = ledger
        self.changes: list[Identity] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for mapping in self._stores.mappings:
                for feed_range in await feed_ranges(self._stores.cosmos.container(mapping)):
                    group.create_task(self._follow(mapping, feed_range))

    async def _follow(self, mapping: EntityMapping[Any], feed_range: FeedRange) -> None:
        container = self._stores.cosmos.container(mapping)
        continuation: str | None = None
        while True:
            async for page in pages(container, feed_range, continuation, PAGE_SIZE):
                continuation = page.continuation
                at = time.perf_counter()
                for document in page.documents:
                    self._see(mapping, document, at)
            await asyncio.sleep(PAUSE_S if self._ledger.is_waiting_for(Origin.COSMOS) else IDLE_PAUSE_S)

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
