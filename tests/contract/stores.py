"""The stores under contract: each opens units of work, and takes documents as the legacy application stored them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson
from sqlalchemy import text

from core.cache.changes import Changed
from core.cache.unit_of_work import CachedUnitOfWork
from core.cosmos.documents import CosmosDocuments
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.events import events_of
from core.postgres.unit_of_work import PostgresUnitOfWork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cache.client import Cache
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.entity import Entity
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.migration.routing import Routing
    from core.phases import PhaseRow
    from core.repository import UnitOfWork

T = TypeVar("T")


class Db(Protocol):
    """What a contract test sees of a store."""

    def unit_of_work(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open a unit of work."""
        ...

    async def seed(self, mapping: EntityMapping[Any], *documents: Document) -> None:
        """Put documents into the store as they are, old spellings included, by another way than a repository."""
        ...

    async def events(self, identity: Identity) -> list[str]:
        """Return what was said in the events of an aggregate that wait for the relay, or the mirror."""
        ...


class PostgresDb:
    """Rows as the mirror makes them of documents."""

    def __init__(self, engine: AsyncEngine, mappings: Mappings) -> None:
        self.engine = engine
        self._mappings = mappings

    def unit_of_work(self) -> PostgresUnitOfWork:
        return PostgresUnitOfWork(self.engine, self._mappings)

    async def seed(self, mapping: EntityMapping[Any], *documents: Document) -> None:
        rows = orjson.dumps([mapping.row(document) for document in documents]).decode()
        columns = ", ".join(f'"{name}"' for name in mapping.written_columns)
        table = mapping.table.fullname
        statement = (
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, :rows)"
        )
        async with self.engine.begin() as connection:
            await connection.execute(text(statement.replace("::", "\\:\\:")), {"rows": rows})

    async def events(self, identity: Identity) -> list[str]:
        async with self.engine.connect() as connection:
            found = await connection.execute(
                text(
                    "SELECT event -> 'data' ->> 'email' FROM crossfeed.outbox WHERE event_id IS NOT NULL"
                    " AND (entity, partition_key, id) = (:entity, :partition_key, :id) ORDER BY seq"
                ),
                {"entity": identity.entity, "partition_key": identity.partition_key, "id": identity.id},
            )
            return list(found.scalars())

    async def empty(self) -> None:
        """Forget everything, tombstones and the outbox included."""
        async with self.engine.begin() as connection:
            for mapping in self._mappings:
                await connection.execute(text(f"DELETE FROM {mapping.table.fullname}"))
            for table in ("tombstone", "outbox"):
                await connection.execute(text(f"DELETE FROM crossfeed.{table}"))


class CosmosDb:
    """Documents, foreign ones among them."""

    def __init__(self, store: CosmosStore, mappings: Mappings) -> None:
        self.store = store
        self._mappings = mappings

    def unit_of_work(self) -> CosmosUnitOfWork:
        return CosmosUnitOfWork(self.store, self._mappings, epoch=1, verified=True)

    async def seed(self, mapping: EntityMapping[Any], *documents: Document) -> None:
        container = self.store.container(mapping)
        await asyncio.gather(*(container.create_item(document) for document in documents))

    async def events(self, identity: Identity) -> list[str]:
        document = await CosmosDocuments(self.store, self._mappings).read(identity)
        return [event["data"]["email"] for event in events_of(document or {}, identity)]


class RoutedDb:
    """What an application has of both stores in one phase: its reads are routed.

    Args:
        primary: the store that takes the writes.
        seeded: the store that holds what was there before.
        routing: of the process.
        phase: the recorded one.

    """

    def __init__(self, primary: PostgresDb | CosmosDb, seeded: Db, routing: Routing, phase: PhaseRow) -> None:
        self._primary = primary
        self._seeded = seeded
        self._routing = routing
        self.phase = phase

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        async with self._primary.unit_of_work() as work:
            yield self._routing.routed(work, self.phase)

    async def seed(self, mapping: EntityMapping[Any], *documents: Document) -> None:
        await self._seeded.seed(mapping, *documents)

    async def events(self, identity: Identity) -> list[str]:
        return await self._primary.events(identity)


class CachedDb:
    """A store that is read through a cache.

    Args:
        db: the store.
        cache: of a process.
        phase: in which it reads.

    """

    def __init__(self, db: Db, cache: Cache, phase: PhaseRow) -> None:
        self._db = db
        self._cache = cache
        self._phase = phase

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        async with self._db.unit_of_work() as work, CachedUnitOfWork(work, self._cache, self._phase) as cached:
            yield cached

    async def seed(self, mapping: EntityMapping[Any], *documents: Document) -> None:
        await self._db.seed(mapping, *documents)
        await self._cache.changed(
            [Changed(mapping.identity(document), None, content=document) for document in documents]
        )

    async def events(self, identity: Identity) -> list[str]:
        return await self._db.events(identity)


async def save(db: Db, *entities: Entity) -> None:
    """Add entities of one logical partition."""
    async with db.unit_of_work() as work:
        for entity in entities:
            await work[type(entity)].add(entity)
        await work.commit()


async def commit_all(db: Db, *writes: tuple[str, Entity]) -> None:
    """Do writes, each a method of Repository and its entity, in a unit of work of their own, and commit."""
    async with db.unit_of_work() as work:
        for method, entity in writes:
            await getattr(work[type(entity)], method)(entity)
        await work.commit()


async def in_unit(db: Db, action: Callable[[UnitOfWork], Awaitable[T]]) -> T:
    """Do something in a unit of work of its own, and commit."""
    async with db.unit_of_work() as work:
        result = await action(work)
        await work.commit()
        return result
