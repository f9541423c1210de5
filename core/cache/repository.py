"""The aggregates of one type, read through the cache; written past it, in whatever store the unit of work is on."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

from core.cache.bodies import (
    UnreadableEntryError,
    entity_body,
    entity_of,
    pointer_body,
    pointer_of,
    touched,
    values_of,
)
from core.cache.reader import Reading, RefusedEntryError
from core.cache.seen import Nothing
from core.entity import Entity, loaded, mark_known_by
from core.errors import DocumentRefusedError
from core.identity import ANYWHERE, Identity
from core.query import Equals, Query
from core.repository import EntityRepository

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from core.cache.client import Cache
    from core.cache.entries import Hit, Kept
    from core.cache.unit_of_work import CachedUnitOfWork
    from core.identity import KeyArgument
    from core.lookup import Lookup
    from core.mapping import EntityMapping
    from core.repository import Repository

T = TypeVar("T", bound=Entity)


class CachedRepository(EntityRepository[T]):
    """See core.repository.Repository; made by CachedUnitOfWork.

    `get_by_id`, `exists` and the mapping's look-ups are read through the cache until the unit of work has written;
    `list`, `count` and `stream` are the store's.

    Args:
        store: the repository of the unit of work that is decorated.
        mapping: of the entities.
        work: the unit of work.
        cache: of the process.

    """

    def __init__(self, store: Repository[T], mapping: EntityMapping[T], work: CachedUnitOfWork, cache: Cache) -> None:
        super().__init__(store)
        self._mapping = mapping
        self._work = work
        self._cache = cache

    async def get_by_id(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> T | None:
        """See Repository. Without its partition key, only an entity whose key is its id has an entry."""
        identity = self._identity(id_, partition_key)
        if identity is None or self._work.is_direct:
            began = self._cache.clock()
            return self._noted(await self._store.get_by_id(id_, partition_key=partition_key), identity, began)
        return await self._by_identity(identity)

    async def exists(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> bool:
        """See Repository."""
        return await self.get_by_id(id_, partition_key=partition_key) is not None

    async def add(self, entity: T) -> None:
        """See Repository."""
        async with self._work.writing(self._mapping, entity):
            await self._store.add(entity)

    async def update(self, entity: T) -> None:
        """See Repository."""
        async with self._work.writing(self._mapping, entity):
            await self._store.update(entity)

    async def delete(self, entity: T) -> None:
        """See Repository."""
        async with self._work.writing(self._mapping, entity, gone=True):
            await self._store.delete(entity)

    async def list(self, query: Query = Query()) -> builtins.list[T]:  # noqa: B008 - frozen
        """See Repository. A look-up of the mapping's is a query like any other, of the first entity with a value."""
        asked = None if self._work.is_direct else self._asked(query)
        if asked is None:
            began = self._cache.clock()
            found = await self._store.list(query)
            if any(map(self._is_behind, found)):
                await self._work.catch_up(self._mapping)
                found = await self._store.list(query)
            for entity in found:
                self._noted(entity, None, began)
            return found
        first = await self._by_value(query, *asked)
        return [] if first is None else [first]

    async def stream(self, query: Query = Query()) -> AsyncGenerator[T]:  # noqa: B008 - frozen
        """See Repository."""
        began = self._cache.clock()
        found = cast("AsyncGenerator[T]", self._store.stream(query))  # to be closed with this one, not some day
        async with contextlib.aclosing(found):
            async for entity in found:
                self._noted(entity, None, began)
                yield entity

    # -- by identity

    def _identity(self, id_: str, partition_key: KeyArgument) -> Identity | None:
        """Return whom a caller means, None where that is the store's to say."""
        if partition_key is ANYWHERE:
            if self._mapping.paths != ("/id",):
                return None
            partition_key = id_
        try:
            identity = self._mapping.identity_of(partition_key, id_)
        except (DocumentRefusedError, TypeError):
            return None  # the store says so in its own way
        return identity if identity.can_be_stored else None

    async def _by_identity(self, identity: Identity) -> T | None:
        key = self._cache.entries.key(identity)

        async def accept(hit: Hit, asked: float) -> T | None:
            mark = Nothing.ABSENT if hit.body is None else hit.stamp or Nothing.UNKNOWN
            try:
                entity = None if hit.body is None else entity_of(self._mapping, identity, hit.stamp, hit.body)
            except UnreadableEntryError as error:
                raise RefusedEntryError from error
            if not self._cache.seen.trusts(key, mark, asked, hit.age_s):
                raise RefusedEntryError
            self._cache.seen.note(key, mark, asked, from_entry=True)
            self._work.served(key, hit)
            return self._known(entity, asked)

        async def load() -> T | None:
            began = self._cache.clock()
            found = await self._store.get_by_id(identity.id, partition_key=identity.parts)
            if self._is_behind(found, key):
                await self._work.catch_up(self._mapping)
                found = await self._store.get_by_id(identity.id, partition_key=identity.parts)
            return self._known(self._noted(found, identity, began), began)

        def keep(entity: T | None) -> Kept | None:
            if entity is None:
                return self._cache.kept(b"", None)
            state, kept = loaded(entity), entity_body(self._mapping, entity)
            if kept is None or state is None or state.identity != identity:
                return None
            stamp, body = kept
            return self._cache.kept(body, stamp)

        return await self._read(key, accept, load, keep)

    async def _read(
        self,
        key: str,
        accept: Callable[[Hit, float], Awaitable[T | None]],
        load: Callable[[], Awaitable[T | None]],
        keep: Callable[[T | None], Kept | None],
    ) -> T | None:
        def keep_what_is_committed(entity: T | None) -> Kept | None:
            # Another task of the unit may have begun to write meanwhile: who knows what was read then.
            return None if self._work.is_direct else keep(entity)

        return await self._cache.reader.read(Reading(key, self._work.epoch, accept, load, keep_what_is_committed))

    # -- by another key

    def _asked(self, query: Query) -> tuple[Lookup, str] | None:
        """Return the look-up that a query is, and its value as the look-up spells it."""
        if query.limit != 1 or query.order_by is not None or len(query.where) != 1:
            return None
        [condition] = query.where
        if not isinstance(condition, Equals):
            return None
        for lookup in self._mapping.lookups:
            if (lookup.field, lookup.ignore_case) == (condition.field, condition.ignore_case):
                spelled = lookup.spelled(condition.value)
                return None if spelled is None else (lookup, spelled)
        return None

    async def _by_value(self, query: Query, lookup: Lookup, value: str) -> T | None:
        """Read whom an entry names, and believe the entry only if that one has the value still."""
        key = self._cache.entries.lookup_key(self._mapping.name, lookup, value)

        async def accept(hit: Hit, asked: float) -> T | None:
            try:
                named = None if hit.body is None else pointer_of(self._mapping, hit.body)
            except UnreadableEntryError as error:
                raise RefusedEntryError from error
            mark = Nothing.ABSENT if named is None else named
            if not self._cache.seen.trusts(key, mark, asked, hit.age_s):
                raise RefusedEntryError
            entity = None if named is None else await self._by_identity(named)
            if named is not None and (entity is None or lookup.spelled(getattr(entity, lookup.field)) != value):
                raise RefusedEntryError
            self._cache.seen.note(key, mark, asked)
            self._work.served(key, hit)
            return entity

        async def load() -> T | None:
            began = self._cache.clock()
            found = await self._store.list(replace(query, limit=1))
            if any(map(self._is_behind, found)):
                await self._work.catch_up(self._mapping)
                found = await self._store.list(replace(query, limit=1))
            entity = self._noted(found[0], None, began) if found else None
            state = None if entity is None else loaded(entity)
            self._cache.seen.note(key, Nothing.ABSENT if state is None else state.identity, began)
            return entity

        def keep(entity: T | None) -> Kept | None:
            if entity is None:
                return self._cache.kept(b"", None)
            state = loaded(entity)
            fits = lookup.spelled(getattr(entity, lookup.field)) == value
            if state is None or not state.trusted or not fits:
                return None
            return self._cache.kept(pointer_body(state.identity), None)

        return await self._read(key, accept, load, keep)

    # -- what is seen

    def _noted(self, entity: T | None, identity: Identity | None, began: float) -> T | None:
        """Remember what the store said, and return it."""
        state = None if entity is None else loaded(entity)
        if state is not None:
            mark = state.stamp if state.trusted else Nothing.UNKNOWN
            self._cache.seen.note(self._cache.entries.key(state.identity), mark, began)
        elif identity is not None:
            self._cache.seen.note(self._cache.entries.key(identity), Nothing.ABSENT, began)
        if entity is not None:
            mark_known_by(entity, values_of(self._mapping, entity))
        return entity

    def _known(self, entity: T | None, began: float) -> T | None:
        """Remember that an entity answers its look-ups, and return it."""
        state = None if entity is None else loaded(entity)
        if entity is not None and state is not None:
            values = values_of(self._mapping, entity)
            mark_known_by(entity, values)
            for lookup, value in touched(self._mapping, values):
                key = self._cache.entries.lookup_key(self._mapping.name, lookup, value)
                self._cache.seen.note(key, state.identity, began)
        return entity

    def _is_behind(self, entity: T | None, key: str = "") -> bool:
        """Whether a replica has answered that is behind what an entry has shown to this process."""
        state = None if entity is None else loaded(entity)
        if state is None:
            return entity is None and self._cache.seen.is_behind(key, Nothing.ABSENT)
        mark = state.stamp if state.trusted else Nothing.UNKNOWN
        return self._cache.seen.is_behind(self._cache.entries.key(state.identity), mark)
