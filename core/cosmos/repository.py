"""The aggregates of one type in Cosmos DB: reads go to the container, writes wait in the unit of work's buffer."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from core.content import Document, content_of
from core.cosmos import sql
from core.cosmos.documents import CosmosDocuments
from core.cosmos.order import in_order, put_right
from core.cosmos.patience import patiently_read
from core.cosmos.querying import answers
from core.entity import Entity, Loaded, loaded, mark_loaded, read_key
from core.envelope import Ours, author_of, claimed_version, is_deleted, is_internal
from core.errors import DocumentRefusedError
from core.events import events_of
from core.identity import ANYWHERE, Anywhere, Identity, KeyPart, check_id
from core.query import Equals, Query
from core.stamp import Stamp

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator

    from core.cosmos.buffer import Buffer, Pending
    from core.cosmos.client import CosmosStore
    from core.identity import KeyArgument
    from core.mapping import EntityMapping
    from core.mappings import Mappings

T = TypeVar("T", bound=Entity)


class CosmosRepository(Generic[T]):
    """Implements core.repository.Repository; made by CosmosUnitOfWork.

    Args:
        store: the opened database.
        mappings: all mappings.
        mapping: the mapping of the entity class.
        buffer: the pending writes of the unit of work.
        epoch: the unit's epoch.
        verified: whether to find out if a stamp that is read is to be trusted.

    """

    def __init__(  # noqa: PLR0913 - the facts of its unit of work
        self,
        store: CosmosStore,
        mappings: Mappings,
        mapping: EntityMapping[T],
        buffer: Buffer,
        epoch: int,
        *,
        verified: bool = False,
    ) -> None:
        self._mapping = mapping
        self._mappings = mappings
        self._rivals = mappings.rivals(mapping)
        self._container = store.container(mapping)
        self._documents = CosmosDocuments(store, mappings)
        self._buffer = buffer
        self._epoch = epoch
        self._verified = verified

    async def get_by_id(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> T | None:
        """See Repository. A point read where the key is known, a query over all partitions where it is not.

        Where several partitions hold the id, the first by partition key is returned.
        """
        try:
            check_id(id_)
        except DocumentRefusedError:
            return None  # it cannot exist, and its characters would name something else in a request's path
        parts = self._parts(id_, partition_key)
        if parts is not None:
            return await self._at(Identity.of(self._mapping.name, parts, id_))
        for pending in self._buffer.of(self._mapping):
            if pending.identity.id == id_ and pending.content is not None:
                return self._buffered(pending)
        by_id = Query((Equals("id", id_),))
        statement = sql.select(self._mapping, self._rivals, by_id, ordered=False)
        found = await patiently_read(lambda: self._collect(statement, by_id))
        standing = [entity for entity in found if self._buffer.at(_identity(entity)) is None]
        return min(standing, key=read_key, default=None)

    async def add(self, entity: T) -> None:
        """See Repository."""
        self._buffer.add(self._mapping, entity)

    async def update(self, entity: T) -> None:
        """See Repository."""
        self._buffer.update(self._mapping, entity)

    async def delete(self, entity: T) -> None:
        """See Repository."""
        self._buffer.delete(self._mapping, entity)

    async def exists(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> bool:
        """See Repository."""
        return await self.get_by_id(id_, partition_key=partition_key) is not None

    async def list(self, query: Query = Query()) -> builtins.list[T]:  # noqa: B008 - frozen
        """See Repository."""
        if query.limit is None or self._buffer.of(self._mapping):
            everything = await self._everything(query)
            return everything if query.limit is None else everything[: query.limit]
        return await patiently_read(lambda: self._first(query, query.limit or 0))

    async def count(self, query: Query = Query()) -> int:  # noqa: B008 - frozen
        """See Repository."""
        statement = sql.count(self._mapping, self._rivals, query)
        if not statement.exact or self._buffer.of(self._mapping):
            return len(await self.list(query))
        counts = await patiently_read(lambda: self._values(statement))
        total = sum(int(value) for value in counts)
        return total if query.limit is None else min(total, query.limit)

    async def stream(self, query: Query = Query()) -> AsyncGenerator[T]:  # noqa: B008 - frozen
        """See Repository. The unit's own writes are kept in memory; with such writes, so is the rest of the answer."""
        if self._buffer.of(self._mapping):
            for entity in await self.list(query):
                yield entity
            return
        async with contextlib.aclosing(self._ordered(query)) as entities:
            remaining = query.limit
            if remaining == 0:
                return
            async for entity in entities:
                yield entity
                if remaining is not None:
                    remaining -= 1
                    if remaining == 0:
                        return

    # -- reading

    async def _at(self, identity: Identity) -> T | None:
        pending = self._buffer.at(identity)
        if pending is not None:
            return None if pending.content is None else self._buffered(pending)
        document = await patiently_read(lambda: self._documents.read(identity))
        return None if document is None or not self._is_shown(document) else self._entity(document)

    async def _everything(self, query: Query) -> builtins.list[T]:
        statement = sql.select(self._mapping, self._rivals, query, ordered=False)
        stored = await patiently_read(lambda: self._collect(statement, query))
        written = self._buffer.of(self._mapping)
        if written:
            hidden = {pending.identity for pending in written}
            stored = [entity for entity in stored if _identity(entity) not in hidden]
            live = [self._buffered(pending) for pending in written if pending.content is not None]
            stored += [entity for entity in live if sql.holds(entity, query)]
        return in_order(stored, query.order_by)

    async def _first(self, query: Query, limit: int) -> builtins.list[T]:
        found: builtins.list[T] = []
        async with contextlib.aclosing(self.stream(replace(query, limit=limit))) as entities:
            async for entity in entities:
                found.append(entity)  # noqa: PERF401 - the comprehension would leave the stream open on errors
        return found

    async def _ordered(self, query: Query) -> AsyncGenerator[T]:
        statement = sql.select(self._mapping, self._rivals, query, ordered=True)
        async with (
            contextlib.aclosing(self._entities(statement, query)) as stored,
            contextlib.aclosing(put_right(stored, sql.order_of(query))) as ordered,
        ):
            async for entity in ordered:
                yield entity

    async def _collect(self, statement: sql.Statement, query: Query) -> builtins.list[T]:
        async with contextlib.aclosing(self._entities(statement, query)) as entities:
            return [entity async for entity in entities]

    async def _entities(self, statement: sql.Statement, query: Query) -> AsyncGenerator[T]:
        async with contextlib.aclosing(answers(self._container, statement)) as documents:
            async for document in documents:
                if not self._is_shown(document):
                    continue
                entity = self._entity(document)
                if statement.exact or sql.holds(entity, query):
                    yield entity

    async def _values(self, statement: sql.Statement) -> builtins.list[Any]:
        async with contextlib.aclosing(answers(self._container, statement)) as values:
            return [value async for value in values]

    # -- documents and entities

    def _is_shown(self, document: Document) -> bool:
        if is_deleted(document) or is_internal(document):
            return False
        return self._mappings.mapping_of(self._mapping.container, document) is self._mapping

    def _entity(self, document: Document) -> T:
        entity = self._mapping.entity(content_of(document))
        identity = self._mapping.identity(document)
        carried = events_of(document, identity)
        trusted = self._verified and isinstance(author_of(document), Ours)
        mark_loaded(entity, Loaded(identity, self._stamp(document), str(document["_etag"]), carried, trusted=trusted))
        return entity

    def _buffered(self, pending: Pending) -> T:
        """Return an object of its own for what was written, which may be written further."""
        entity: T = self._mapping.entity(content_of(pending.content or {}))
        mark_loaded(entity, Loaded(pending.identity, Stamp(self._epoch, pending.version), None))
        pending.holders.append(entity)
        return entity

    def _stamp(self, document: Document) -> Stamp:
        """Return what the next writer must exceed; a later epoch is believed only if the hash verifies."""
        version = claimed_version(document)
        epoch = (document.get("crossfeed") or {}).get("epoch") if version else 0
        if isinstance(epoch, int) and epoch > self._epoch:
            author = author_of(document)
            epoch = author.stamp.epoch if isinstance(author, Ours) else 0
        return Stamp(epoch if isinstance(epoch, int) else 0, version)

    def _parts(self, id_: str, partition_key: KeyArgument) -> builtins.list[KeyPart] | None:
        if isinstance(partition_key, Anywhere):
            return [id_] if self._mapping.paths == ("/id",) else None
        if partition_key is None or isinstance(partition_key, str | int | float | bool):
            parts: builtins.list[KeyPart] = [partition_key]
        else:
            parts = [*partition_key]
        if len(parts) != len(self._mapping.paths):
            msg = f"{self._mapping.name}: the partition key has {len(self._mapping.paths)} levels, not {len(parts)}"
            raise DocumentRefusedError(msg)
        return parts


def _identity(entity: Entity) -> Identity:
    """Return the identity of an entity that was read."""
    state = loaded(entity)
    assert state is not None
    return state.identity
