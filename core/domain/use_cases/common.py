"""What the use cases share: finding an aggregate, writing it back, and how their outcomes are called."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

from core.entity import Entity
from core.errors import NotFoundError
from core.repository import UnitOfWork

if TYPE_CHECKING:
    from core.identity import KeyPart

UnitOfWorkFactory = Callable[[], AbstractAsyncContextManager[UnitOfWork]]
"""Opens a unit of work."""

T = TypeVar("T", bound=Entity)


class NotAllowedError(Exception):
    """The aggregate's state does not allow the step, pausing a finished session for example."""


async def found(work: UnitOfWork, model: type[T], id_: str, partition_key: KeyPart) -> T:
    """Return an aggregate.

    Raises:
        NotFoundError: there is none.

    """
    entity = await work[model].get_by_id(id_, partition_key=partition_key)
    if entity is None:
        msg = f"there is no {model.__name__} {id_!r}"
        raise NotFoundError(msg)
    return entity


async def updated(work: UnitOfWork, entity: T) -> T:
    """Write an aggregate that was read, and return it."""
    await work[type(entity)].update(entity)
    return entity
