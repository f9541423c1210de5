"""Compares JSON values the way Cosmos DB does."""

from __future__ import annotations

from typing import Any

import orjson

from core.local.cosmos.values import UNDEFINED

_SCALARS = (str, int, float)


def type_rank(value: object) -> int:
    """Return where the type of a value sorts: undefined, null, boolean, number, string, array, object."""
    kind = type(value)
    if kind is str:
        return 4
    if kind is int or kind is float:
        return 3
    if kind is bool:
        return 2
    if value is None:
        return 1
    if value is UNDEFINED:
        return 0
    return 5 if kind is list else 6


def sort_key(value: Any) -> tuple[int, Any]:  # noqa: ANN401 - JSON
    """Return a key that orders values of any type."""
    rank = type_rank(value)
    if 2 <= rank <= 4:  # noqa: PLR2004 - boolean, number, string
        return rank, value
    if rank >= 5:  # noqa: PLR2004 - array, object
        return rank, orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return rank, 0


def equal(left: Any, right: Any) -> bool:  # noqa: ANN401 - JSON
    """Say whether two defined values are equal; values of different types never are."""
    kind = type(left)
    if kind is type(right):
        if kind is list:
            return len(left) == len(right) and all(map(equal, left, right))
        if kind is dict:
            return left.keys() == right.keys() and all(equal(value, right[name]) for name, value in left.items())
        return bool(left == right)
    return type_rank(left) == type_rank(right) == 3 and left == right  # noqa: PLR2004 - numbers


def canonical(value: object) -> bytes:
    """Return bytes that are equal exactly for equal values."""
    if value is UNDEFINED:
        return b"undefined"
    return orjson.dumps(_normal(value), option=orjson.OPT_SORT_KEYS)


def _normal(value: Any) -> object:  # noqa: ANN401 - JSON
    if type(value) is float and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if type(value) is list:
        return [_normal(item) for item in value]
    if type(value) is dict:
        return {name: _normal(item) for name, item in value.items()}
    return value
