"""Computes the aggregate functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.compare import sort_key, type_rank
from core.local.cosmos.sql.operators import finite
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBER = 3
_LAST_SCALAR = 4


def _count(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return len(values)


def _sum(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return finite(sum(values)) if all(type_rank(v) == _NUMBER for v in values) else UNDEFINED


def _avg(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    total = _sum(values)
    return UNDEFINED if total is UNDEFINED or not values else finite(total / len(values))


def _min(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return min(values, key=sort_key) if _comparable(values) else UNDEFINED


def _max(values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return max(values, key=sort_key) if _comparable(values) else UNDEFINED


def _comparable(values: list[Any]) -> bool:
    return bool(values) and all(type_rank(value) <= _LAST_SCALAR for value in values)


AGGREGATES: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "COUNT": _count,
    "SUM": _sum,
    "AVG": _avg,
    "MIN": _min,
    "MAX": _max,
}


def aggregate(name: str, values: list[Any]) -> Any:  # noqa: ANN401 - JSON
    """Return an aggregate of the values that are defined."""
    return AGGREGATES[name]([value for value in values if value is not UNDEFINED])
