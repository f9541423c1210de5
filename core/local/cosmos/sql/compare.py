"""Compares JSON values the way Cosmos DB does."""

from __future__ import annotations

from typing import Any, Final

import orjson

from core.local.cosmos.values import UNDEFINED

NUMBER: Final = 3
LAST_SCALAR: Final = 4
_EXACT = 1 << 64  # whole numbers up to here are written to JSON digit by digit


def type_rank(value: object) -> int:
    """Return where the type of a value sorts: undefined, null, boolean, number, string, array, object."""
    kind = type(value)
    if kind is str:
        return 4
    if kind is int or kind is float:
        return NUMBER
    if kind is bool:
        return 2
    if value is None:
        return 1
    if value is UNDEFINED:
        return 0
    return 5 if kind is list else 6


def is_number(value: object) -> bool:
    """Say whether a value is a number; a boolean is none."""
    return type(value) is int or type(value) is float


def sort_key(value: Any) -> tuple[int, Any]:  # noqa: ANN401 - JSON
    """Return a key that orders values of any type."""
    rank = type_rank(value)
    if 2 <= rank <= LAST_SCALAR:  # noqa: PLR2004 - boolean, number, string
        return rank, value
    if rank > LAST_SCALAR:
        return rank, canonical(value).decode()
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
    return is_number(left) and is_number(right) and left == right


def canonical(value: object) -> bytes:
    """Return bytes that are equal exactly for equal values."""
    if value is UNDEFINED:
        return b"undefined"
    return orjson.dumps(_normal(value), option=orjson.OPT_SORT_KEYS)


def _normal(value: Any) -> object:  # noqa: ANN401 - JSON
    kind = type(value)
    if kind is float and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if kind is list:
        return [_normal(item) for item in value]
    if kind is dict:
        return {name: _normal(item) for name, item in value.items()}
    return value
