"""Implements the array, object and conditional functions."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.aggregates import average, greatest, least, total
from core.local.cosmos.sql.compare import canonical, equal, is_number
from core.local.cosmos.sql.operators import finite
from core.local.cosmos.sql.signature import MANY, Function, all_true, any_true, is_integer, raw, typed
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def _contains(items: Any, wanted: Any, partial: Any = False) -> Any:  # noqa: ANN401 - SQL's shape
    if type(items) is not list or wanted is UNDEFINED or type(partial) is not bool:
        return UNDEFINED
    if partial and type(wanted) is dict:
        return any(_includes(item, wanted) for item in items)
    return any(equal(item, wanted) for item in items)


def _includes(item: Any, wanted: dict[str, Any]) -> bool:  # noqa: ANN401 - JSON
    return type(item) is dict and all(name in item and equal(item[name], value) for name, value in wanted.items())


def _contains_each(join: Callable[[Iterable[Any]], Any]) -> Function:
    def check(items: Any, *wanted: Any) -> Any:  # noqa: ANN401 - JSON
        return UNDEFINED if type(items) is not list else join(_contains(items, value) for value in wanted)

    return raw(check, 2, MANY)


def _concat(*arrays: Any) -> Any:  # noqa: ANN401 - JSON
    if any(type(array) is not list for array in arrays):
        return UNDEFINED
    return [item for array in arrays for item in array]


def _slice(items: list[Any], start: float, length: float | None = None) -> list[Any]:
    first = int(start) if start >= 0 else max(0, len(items) + int(start))
    return items[first:] if length is None else items[first : first + max(0, int(length))]


def _distinct(items: list[Any]) -> list[Any]:
    first: dict[bytes, Any] = {}
    for item in items:
        first.setdefault(canonical(item), item)
    return list(first.values())


def _intersect(left: list[Any], right: list[Any]) -> list[Any]:
    other = {canonical(item) for item in right}
    return _distinct([item for item in left if canonical(item) in other])


def _difference(left: list[Any], right: list[Any]) -> list[Any]:
    other = {canonical(item) for item in right}
    return _distinct([item for item in left if canonical(item) not in other])


def _same_set(left: list[Any], right: list[Any]) -> bool:
    return {canonical(item) for item in left} == {canonical(item) for item in right}


def _median(items: list[Any]) -> Any:  # noqa: ANN401 - JSON
    return finite(median(items)) if items and all(map(is_number, items)) else UNDEFINED


def _choose(index: Any, *values: Any) -> Any:  # noqa: ANN401 - JSON
    return values[int(index) - 1] if is_integer(index) and 1 <= index <= len(values) else UNDEFINED


def _pairs(value: Any, key: Any = "k", content: Any = "v") -> Any:  # noqa: ANN401 - JSON
    if type(value) is not dict or type(key) is not str or type(content) is not str:
        return UNDEFINED
    return [{key: name, content: item} for name, item in value.items()]


def _iif(test: Any, yes: Any, no: Any) -> Any:  # noqa: ANN401 - JSON
    return yes if test is True else no


ARRAY_FUNCTIONS: Final[dict[str, Function]] = {
    "ARRAY_AVG": typed(average, "a"),
    "ARRAY_CONCAT": raw(_concat, 2, MANY),
    "ARRAY_CONTAINS": raw(_contains, 2, 3),
    "ARRAY_CONTAINS_ALL": _contains_each(all_true),
    "ARRAY_CONTAINS_ANY": _contains_each(any_true),
    "ARRAY_LENGTH": typed(len, "a"),
    "ARRAY_MAX": typed(greatest, "a"),
    "ARRAY_MEDIAN": typed(_median, "a"),
    "ARRAY_MIN": typed(least, "a"),
    "ARRAY_SLICE": typed(_slice, "a", "i", "i", optional=1),
    "ARRAY_SUM": typed(total, "a"),
    "CHOOSE": raw(_choose, 2, MANY),
    "IIF": raw(_iif, 3),
    "OBJECTTOARRAY": raw(_pairs, 1, 3),
    "SETDIFFERENCE": typed(_difference, "a", "a"),
    "SETEQUAL": typed(_same_set, "a", "a"),
    "SETINTERSECT": typed(_intersect, "a", "a"),
    "SETUNION": typed(lambda left, right: _distinct(left + right), "a", "a"),
}
