"""Implements the arithmetic, bit, string and ordering operators."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.compare import sort_key, type_rank
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable

    Evaluator = Callable[[dict[str, Any]], Any]

_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER = 3


def compare_operator(symbol: str, left: Evaluator, right: Evaluator) -> Evaluator:
    """Return the evaluator of `<`, `<=`, `>` or `>=`; values of different types do not compare."""
    test = _ORDER[symbol]

    def compare(env: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        first, second = left(env), right(env)
        rank = type_rank(first)
        if rank == 0 or rank != type_rank(second):
            return UNDEFINED
        return test(sort_key(first), sort_key(second))

    return compare


def _numeric(apply: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def call(left: Any, right: Any) -> Any:  # noqa: ANN401 - JSON
        if type_rank(left) != _NUMBER or type_rank(right) != _NUMBER:
            return UNDEFINED
        try:
            return finite(apply(left, right))
        except (ZeroDivisionError, OverflowError, ValueError):
            return UNDEFINED

    return call


def finite(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a number that JSON can hold, whole numbers as integers; `UNDEFINED` for infinities."""
    if type(value) is float:
        if not math.isfinite(value):
            return UNDEFINED
        if value.is_integer() and abs(value) < 1 << 53:
            return int(value)
    elif type(value) is int and abs(value) >= 1 << 63:
        return float(value)
    return value


def _concatenate(left: Any, right: Any) -> Any:  # noqa: ANN401 - JSON
    return left + right if type(left) is str and type(right) is str else UNDEFINED


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


ARITHMETIC: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": _numeric(operator.add),
    "-": _numeric(operator.sub),
    "*": _numeric(operator.mul),
    "/": _numeric(operator.truediv),
    "%": _numeric(math.fmod),
    "|": _numeric(lambda a, b: _signed(int(a) | int(b))),
    "&": _numeric(lambda a, b: _signed(int(a) & int(b))),
    "^": _numeric(lambda a, b: _signed(int(a) ^ int(b))),
    "<<": _numeric(lambda a, b: _signed(int(a) << (int(b) & 31))),
    ">>": _numeric(lambda a, b: _signed(int(a)) >> (int(b) & 31)),
    ">>>": _numeric(lambda a, b: (int(a) & 0xFFFFFFFF) >> (int(b) & 31)),
    "||": _concatenate,
}
