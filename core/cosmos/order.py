"""Puts entities in the order that a query asks for: by one key, those that tie by their ids."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from core.entity import Entity

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from core.query import Order

T = TypeVar("T", bound=Entity)

_SPELLING_SLACK = timedelta(days=2)
"""How far the order of two texts and the order of the times they spell may be apart: an offset each."""


def in_order(entities: Iterable[T], order: Order | None) -> list[T]:
    """Sort entities; without an order, by id. None comes before everything else."""
    by_id = sorted(entities, key=lambda entity: entity.id)
    if order is None:
        return by_id
    return sorted(by_id, key=lambda entity: _key(entity, order), reverse=order.descending)


async def put_right(entities: AsyncIterator[T], order: Order) -> AsyncGenerator[T]:
    """Pass on entities that come nearly in order: sorted by the key's text in Cosmos DB, ties in no order.

    Holds no more than those that tie, or lie within two days of each other where the key is a time.
    """
    window: list[T] = []
    async for entity in entities:
        if window and _settled(window[0], entity, order):
            settled = [held for held in window if _settled(held, entity, order)]
            window = [held for held in window if not _settled(held, entity, order)]
            for done in in_order(settled, order):
                yield done
        window.append(entity)
    for done in in_order(window, order):
        yield done


def _settled(held: Entity, newest: Entity, order: Order) -> bool:
    """Whether nothing that comes after `newest` can belong before or among the ties of `held`."""
    one, other = getattr(held, order.field), getattr(newest, order.field)
    if isinstance(one, datetime) and isinstance(other, datetime):
        return abs(other - one) > _SPELLING_SLACK
    return bool(one != other)


def _key(entity: Entity, order: Order) -> tuple[bool, Any]:
    value = getattr(entity, order.field)
    if isinstance(value, Enum):
        value = value.value
    return (value is not None, value)
