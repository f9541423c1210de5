"""The repository of phase 2: what Postgres holds, and what it should hold and is in Cosmos DB still."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar, cast

from core.cosmos.order import in_order
from core.entity import Entity, loaded, read_key
from core.errors import AlreadyExistsError, DocumentRefusedError
from core.identity import ANYWHERE, check_id
from core.query import Equals, Query
from core.repository import EntityRepository

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator

    from core.identity import KeyArgument
    from core.mapping import EntityMapping
    from core.migration.fallback import Fallback
    from core.migration.routing import Routing
    from core.phases import PhaseRow
    from core.postgres.unit_of_work import PostgresUnitOfWork
    from core.repository import Repository

T = TypeVar("T", bound=Entity)


class RoutedRepository(EntityRepository[T]):
    """See core.repository.Repository.

    Args:
        store: of the unit of work.
        mapping: of the entities.
        on_postgres: the unit of work if it is on Postgres: only then is there a fallback.
        routing: the process's routes.
        phase: as it was when the unit began.

    """

    def __init__(
        self,
        store: Repository[T],
        mapping: EntityMapping[T],
        on_postgres: PostgresUnitOfWork | None,
        routing: Routing,
        phase: PhaseRow,
    ) -> None:
        super().__init__(store)
        self._mapping = mapping
        self._on_postgres = on_postgres
        self._routing = routing
        self._phase = phase

    async def get_by_id(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> T | None:
        """See Repository. What Postgres holds is read without Cosmos DB."""
        entity = await self._store.get_by_id(id_, partition_key=partition_key)
        if entity is None:
            entity = await self._elsewhere(id_, partition_key)
        self._routing.shadow.offer(self._mapping, id_, partition_key, self._phase)
        return entity

    async def add(self, entity: T) -> None:
        """See Repository. What is only in Cosmos DB is backfilled first: it is there, and must not be replaced."""
        await self._check_free(entity)
        await self._store.add(entity)

    async def update(self, entity: T) -> None:
        """See Repository. A new partition key is looked for as that of a new entity is."""
        await self._check_free(entity)
        await self._store.update(entity)

    async def exists(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> bool:
        """See Repository."""
        return await self.get_by_id(id_, partition_key=partition_key) is not None

    async def list(self, query: Query = Query()) -> builtins.list[T]:  # noqa: B008 - frozen
        """See Repository."""
        left = await self._bring(query)
        found = await self._store.list(query)
        return self._together(found, left, query)

    async def count(self, query: Query = Query()) -> int:  # noqa: B008 - frozen
        """See Repository."""
        if await self._bring(query):
            return len(await self.list(query))
        return await self._store.count(query)

    async def stream(self, query: Query = Query()) -> AsyncGenerator[T]:  # noqa: B008 - frozen
        """See Repository. With entities that could not be backfilled, the whole answer is kept in memory."""
        if await self._bring(query):
            for entity in await self.list(query):
                yield entity
            return
        found = cast("AsyncGenerator[T]", self._store.stream(query))  # to be closed with this one, not some day
        async with contextlib.aclosing(found):
            async for entity in found:
                yield entity

    # -- what Postgres should have and has not

    async def _fallback(self) -> Fallback | None:
        if self._on_postgres is None:
            return None
        return await self._routing.fallback(self._on_postgres.connection, self._phase)

    async def _check_free(self, entity: T) -> None:
        fallback = await self._fallback()
        if fallback is None or self._on_postgres is None:
            return
        identity, state = self._mapping.identity(self._mapping.document(entity)), loaded(entity)
        if state is not None and state.identity == identity:
            return
        if await fallback.bring_one(self._on_postgres.connection, self._mapping, identity):
            msg = f"{identity} exists already, in Cosmos DB"
            raise AlreadyExistsError(msg)

    async def _bring(self, query: Query) -> builtins.list[T]:
        fallback = await self._fallback()
        if fallback is None or self._on_postgres is None or query.limit == 0:
            return []
        return self._of_this_type(await fallback.bring(self._on_postgres.connection, self._mapping, query))

    async def _elsewhere(self, id_: str, partition_key: KeyArgument) -> T | None:
        fallback = await self._fallback()
        if fallback is None or self._on_postgres is None:
            return None
        try:
            check_id(id_)
        except DocumentRefusedError:
            return None  # it cannot exist, and its characters would name something else in a request's path
        if partition_key is ANYWHERE and self._mapping.paths != ("/id",):
            left = await self._bring(Query((Equals("id", id_),)))
        else:
            key = id_ if partition_key is ANYWHERE else partition_key
            identity = self._mapping.identity_of(key, id_)
            left = self._of_this_type(await fallback.bring_one(self._on_postgres.connection, self._mapping, identity))
        found = await self._store.get_by_id(id_, partition_key=partition_key)
        return found if found is not None else min(left, key=read_key, default=None)

    def _of_this_type(self, entities: builtins.list[Entity]) -> builtins.list[T]:
        return [entity for entity in entities if isinstance(entity, self._mapping.model)]

    def _together(self, found: builtins.list[T], left: builtins.list[T], query: Query) -> builtins.list[T]:
        """Add to what Postgres has found what it could not take, unless it has taken it since."""
        known = {state.identity for entity in found if (state := loaded(entity)) is not None}
        more = [entity for entity in left if (state := loaded(entity)) is not None and state.identity not in known]
        return in_order([*found, *more], query.order_by)[: query.limit] if more else found
