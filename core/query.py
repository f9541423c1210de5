"""The questions that domain look-ups ask, said once and answered by either store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.instant import Instant


@dataclass(frozen=True, slots=True)
class Equals:
    """The field is this value; text may be compared without regard to case."""

    field: str
    value: Any
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field is one of these values."""

    field: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Before:
    """The field is a point in time before this one."""

    field: str
    moment: Instant


@dataclass(frozen=True, slots=True)
class NotBefore:
    """The field is this point in time or a later one."""

    field: str
    moment: Instant


Condition = Equals | OneOf | Before | NotBefore


@dataclass(frozen=True, slots=True)
class Order:
    """One sort key. Text sorts by code point in both stores; entities that tie are in the order of their ids."""

    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """All conditions must hold. `limit` is a count of entities, None for all.

    Fields are the model's names, not aliases.
    A value may carry `spellings`: all the JSON values that old documents use for it (an enum's number, say). A store
    that keeps documents as they were written compares with each of them.
    """

    where: tuple[Condition, ...] = ()
    order_by: Order | None = None
    limit: int | None = None


def spellings(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any value of a model's field
    """Return every JSON value that documents may hold for `value`."""
    return tuple(getattr(value, "spellings", (value,)))
