"""Implements the type-checking functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.signature import Function, raw
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable


def _check(test: Callable[[Any], bool]) -> Function:
    return raw(test, 1)


def _is_number(value: object) -> bool:
    return type(value) in {int, float}


TYPE_FUNCTIONS: Final[dict[str, Function]] = {
    "IS_DEFINED": _check(lambda v: v is not UNDEFINED),
    "IS_NULL": _check(lambda v: v is None),
    "IS_BOOL": _check(lambda v: type(v) is bool),
    "IS_NUMBER": _check(_is_number),
    "IS_FINITE_NUMBER": _check(_is_number),
    "IS_INTEGER": _check(lambda v: type(v) is int or (type(v) is float and v.is_integer())),
    "IS_STRING": _check(lambda v: type(v) is str),
    "IS_ARRAY": _check(lambda v: type(v) is list),
    "IS_OBJECT": _check(lambda v: type(v) is dict),
    "IS_PRIMITIVE": _check(lambda v: v is None or type(v) in {bool, int, float, str}),
}
