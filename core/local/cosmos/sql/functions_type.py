"""Implements the type-checking functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.compare import is_number
from core.local.cosmos.sql.functions_date import is_datetime
from core.local.cosmos.sql.signature import Function, is_integer, raw
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable


def _check(test: Callable[[Any], bool]) -> Function:
    return raw(test, 1)


TYPE_FUNCTIONS: Final[dict[str, Function]] = {
    "IS_DEFINED": _check(lambda v: v is not UNDEFINED),
    "IS_NULL": _check(lambda v: v is None),
    "IS_BOOL": _check(lambda v: type(v) is bool),
    "IS_NUMBER": _check(is_number),
    "IS_FINITE_NUMBER": _check(is_number),
    "IS_INTEGER": _check(is_integer),
    "IS_STRING": _check(lambda v: type(v) is str),
    "IS_ARRAY": _check(lambda v: type(v) is list),
    "IS_OBJECT": _check(lambda v: type(v) is dict),
    "IS_PRIMITIVE": _check(lambda v: v is None or type(v) in {bool, int, float, str}),
    "IS_DATETIME": _check(is_datetime),
}
