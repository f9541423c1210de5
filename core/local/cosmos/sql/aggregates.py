"""Computes the aggregate functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.compare import LAST_SCALAR, is_number, sort_key, type_rank
from core.local.cosmos.sql.operators import finite
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable


def _count(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return len(values)


def _count_if(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return sum(value is True for value in values)


def total(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the sum of numbers; undefined if anything else is among them."""
    return finite(sum(map(float, values))) if all(map(is_number, values)) else UNDEFINED


def average(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the mean of numbers; undefined without any, or if anything else is among them."""
    whole = total(values)
    return UNDEFINED if whole is UNDEFINED or not values else finite(whole / len(values))


def least(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the first of scalars in the order of sorting; undefined without any, or among arrays and objects."""
    return min(values, key=sort_key) if _comparable(values) else UNDEFINED


def greatest(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the last of scalars in the order of sorting; undefined without any, or among arrays and objects."""
    return max(values, key=sort_key) if _comparable(values) else UNDEFINED


def _comparable(values: list[Any]) -> bool:
    return bool(values) and all(type_rank(value) <= LAST_SCALAR for value in values)


AGGREGATES: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "COUNT": _count,
    "COUNTIF": _count_if,
    "SUM": total,
    "AVG": average,
    "MIN": least,
    "MAX": greatest,
}


def aggregate(name: str, values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    """Return an aggregate of the values that are defined."""
    return AGGREGATES[name]([value for value in values if value is not UNDEFINED])
