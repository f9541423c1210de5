"""What domain code sees of a store: repositories and the unit of work, the same in every phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from core.entity import Entity
from core.identity import ANYWHERE
from core.query import Query

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator

    from core.events import Event
    from core.identity import Identity, KeyArgument

T = TypeVar("T", bound=Entity)
R = TypeVar("R", bound="EntityRepository[Any]")


class Repository(Protocol[T]):
    """The aggregates of one type. One contract suite (tests/contract) runs on every implementation.

    Entities that were read carry what they were read as; `update` and `delete` refuse when the store has moved on
    since. A Cosmos unit of work sends its writes at commit, so a conflict may surface there rather than at the call.
    Reads see the writes made earlier in the same unit of work.
    """

    async def get_by_id(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> T | None:
        """Return the entity, or None where there is none or it was deleted.

        Without `partition_key` (a value per level) an entity whose key is not its id is looked for in all partitions.
        """
        ...

    async def add(self, entity: T) -> None:
        """Insert a new entity, which then counts as read.

        Raises:
            AlreadyExistsError: there is one with this identity (a deleted one does not count).
            DocumentRefusedError: one of the two stores could not hold it.
            PrimaryMovedError: this store is not the primary, or a switch is draining it.

        """
        ...

    async def update(self, entity: T) -> None:
        """Write an entity that was read before.

        Raises:
            ConcurrencyError: it was changed or deleted since it was read, or never read.
            DocumentRefusedError: one of the two stores could not hold it.
            CrossPartitionError: its partition key or id changed and the store is Cosmos DB (delete and add instead).
            PrimaryMovedError: as for `add`.

        """
        ...

    async def delete(self, entity: T) -> None:
        """Delete an entity that was read before, leaving a tombstone.

        Raises:
            ConcurrencyError: it was changed or deleted since it was read, or never read.
            PrimaryMovedError: as for `add`.

        """
        ...

    async def exists(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> bool:
        """Whether `get_by_id` would find it."""
        ...

    async def list(self, query: Query = Query()) -> builtins.list[T]:  # noqa: B008 - frozen
        """Return all entities that the query asks for."""
        ...

    async def count(self, query: Query = Query()) -> int:  # noqa: B008 - frozen
        """Count the entities that the query asks for."""
        ...

    def stream(self, query: Query = Query()) -> AsyncIterator[T]:  # noqa: B008 - frozen
        """Yield the entities that the query asks for without holding them all in memory."""
        ...


class EntityRepository(Repository[T]):
    """The base of a domain's own repository: look-ups written once on top of any store's Repository.

    class Accounts(EntityRepository[Account]):
        model = Account

        async def get_by_email(self, email: str) -> Account | None: ...

    accounts = work.of(Accounts)
    """

    model: type[T]

    def __init__(self, store: Repository[T]) -> None:
        self._store = store

    async def get_by_id(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> T | None:
        """See Repository."""
        return await self._store.get_by_id(id_, partition_key=partition_key)

    async def add(self, entity: T) -> None:
        """See Repository."""
        await self._store.add(entity)

    async def update(self, entity: T) -> None:
        """See Repository."""
        await self._store.update(entity)

    async def delete(self, entity: T) -> None:
        """See Repository."""
        await self._store.delete(entity)

    async def exists(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> bool:
        """See Repository."""
        return await self._store.exists(id_, partition_key=partition_key)

    async def list(self, query: Query = Query()) -> builtins.list[T]:  # noqa: B008 - frozen
        """See Repository."""
        return await self._store.list(query)

    async def count(self, query: Query = Query()) -> int:  # noqa: B008 - frozen
        """See Repository."""
        return await self._store.count(query)

    def stream(self, query: Query = Query()) -> AsyncIterator[T]:  # noqa: B008 - frozen
        """See Repository."""
        return self._store.stream(query)

    async def first(self, query: Query) -> T | None:
        """Return the first entity that the query asks for, or None."""
        found = await self._store.list(Query(query.where, query.order_by, limit=1))
        return found[0] if found else None


class UnitOfWork(Protocol):
    """One transaction: on Postgres any number of entities, on Cosmos DB those of one logical partition.

    async with db.unit_of_work() as work:
        await work[Account].add(account)
        await work.commit()

    Leaving without `commit` rolls back.
    """

    def __getitem__(self, model: type[T]) -> Repository[T]:
        """Return the repository of an entity class.

        Raises:
            MappingError: the class has no mapping.

        """
        ...

    def of(self, repository: type[R]) -> R:
        """Return a domain's own repository."""
        ...

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """Record what has happened to an aggregate; it becomes durable with the writes, in one transaction.

        Events of one aggregate arrive in commit order, each once. The aggregate is there, or is written by this unit,
        or was deleted lately; that it was never there may surface at the commit as a NotFoundError.

        Args:
            event: what has happened.
            of: the aggregate, by an entity as it is now or by its identity.

        Raises:
            MappingError: the aggregate has no mapping, or the event's class no name.
            DocumentRefusedError: one of the two stores could not hold it.
            PrimaryMovedError: this store is not the primary, or a switch is draining it (maybe at the commit).

        """
        ...

    async def commit(self) -> None:
        """Make the writes and the recorded events durable, all or none.

        Raises:
            ConflictError: as the repositories' methods say.
            CrossPartitionError: Cosmos DB, more than one logical partition.
            OutcomeUnknownError: the commit was sent and never answered.

        """
        ...

    async def rollback(self) -> None:
        """Forget the writes."""
        ...
