"""Implements the array, object and conditional functions."""

from __future__ import annotations

from typing import Any, Final

from core.local.cosmos.sql.compare import canonical, equal
from core.local.cosmos.sql.signature import Function, raw, typed
from core.local.cosmos.values import UNDEFINED


def _contains(items: Any, wanted: Any, partial: Any = False) -> Any:  # noqa: ANN401 - SQL's shape
    if type(items) is not list or wanted is UNDEFINED:
        return UNDEFINED
    if partial is True and type(wanted) is dict:
        return any(_includes(item, wanted) for item in items)
    return any(equal(item, wanted) for item in items)


def _includes(item: Any, wanted: dict[str, Any]) -> bool:  # noqa: ANN401 - JSON
    if type(item) is not dict:
        return False
    return all(
        name in item and (_includes(item[name], value) if type(value) is dict else equal(item[name], value))
        for name, value in wanted.items()
    )


def _contains_each(test: Any) -> Function:  # noqa: ANN401 - a predicate
    def check(items: Any, *wanted: Any) -> Any:  # noqa: ANN401 - JSON
        if type(items) is not list:
            return UNDEFINED
        return test(any(equal(item, value) for item in items) for value in wanted)

    return raw(check, 2, 1000)


def _concat(*arrays: Any) -> Any:  # noqa: ANN401 - JSON
    if any(type(array) is not list for array in arrays):
        return UNDEFINED
    return [item for array in arrays for item in array]


def _slice(items: list[Any], start: float, length: float | None = None) -> list[Any]:
    first = int(start) if start >= 0 else max(0, len(items) + int(start))
    return items[first:] if length is None else items[first : first + max(0, int(length))]


def _distinct(items: list[Any]) -> list[Any]:
    return list({canonical(item): item for item in reversed(items)}.values())[::-1]


def _intersect(left: list[Any], right: list[Any]) -> list[Any]:
    other = {canonical(item) for item in right}
    return _distinct([item for item in left if canonical(item) in other])


def _iif(test: Any, yes: Any, no: Any) -> Any:  # noqa: ANN401 - JSON
    return yes if test is True else no


ARRAY_FUNCTIONS: Final[dict[str, Function]] = {
    "ARRAY_CONCAT": raw(_concat, 2, 1000),
    "ARRAY_CONTAINS": raw(_contains, 2, 3),
    "ARRAY_CONTAINS_ALL": _contains_each(all),
    "ARRAY_CONTAINS_ANY": _contains_each(any),
    "ARRAY_LENGTH": typed(len, "a"),
    "ARRAY_SLICE": typed(_slice, "a", "n", "n", optional=1),
    "CHOOSE": raw(lambda i, *v: v[int(i) - 1] if type(i) is int and 1 <= i <= len(v) else UNDEFINED, 2, 1000),
    "IIF": raw(_iif, 3),
    "OBJECTTOARRAY": typed(lambda o: [{"k": name, "v": value} for name, value in o.items()], "o"),
    "SETINTERSECT": typed(_intersect, "a", "a"),
    "SETUNION": typed(lambda left, right: _distinct(left + right), "a", "a"),
}
