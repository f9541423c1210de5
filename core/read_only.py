"""A unit of work that reads and refuses to write, for a process that may not write now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from core.entity import Entity
from core.repository import EntityRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.errors import PrimaryMovedError
    from core.events import Event
    from core.identity import Identity
    from core.repository import Repository, UnitOfWork

T = TypeVar("T", bound=Entity)
R = TypeVar("R", bound="EntityRepository[Any]")


class ReadOnlyUnitOfWork:
    """Implements core.repository.UnitOfWork.

    Args:
        work: the unit of work that reads.
        why: makes the error of everything that writes.

    """

    def __init__(self, work: UnitOfWork, why: Callable[[], PrimaryMovedError]) -> None:
        self._work = work
        self._why = why

    def __getitem__(self, model: type[T]) -> Repository[T]:
        """See UnitOfWork."""
        return _ReadOnlyRepository(self._work[model], self._why)

    def of(self, repository: type[R]) -> R:
        """See UnitOfWork."""
        return repository(self[repository.model])

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """See UnitOfWork; refused like every write."""
        raise self._why()

    async def commit(self) -> None:
        """See UnitOfWork; there is nothing to commit."""
        await self._work.commit()

    async def rollback(self) -> None:
        """See UnitOfWork."""
        await self._work.rollback()


class _ReadOnlyRepository(EntityRepository[T]):
    def __init__(self, store: Repository[T], why: Callable[[], PrimaryMovedError]) -> None:
        super().__init__(store)
        self._why = why

    async def add(self, entity: T) -> None:
        self._refuse()

    async def update(self, entity: T) -> None:
        self._refuse()

    async def delete(self, entity: T) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise self._why()
