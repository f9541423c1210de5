"""Implements the arithmetic, bit, string and ordering operators."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.compare import LAST_SCALAR, is_number, type_rank
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
MAX_TEXT = 1 << 21  # characters: what functions could make of little would fill all memory
_INT64 = 1 << 63


def compare_operator(symbol: str, left: Evaluator, right: Evaluator) -> Evaluator:
    """Return the evaluator of `<`, `<=`, `>` or `>=`.

    Values of different types do not compare, nor do arrays and objects: that is undefined.
    """
    test = _ORDER[symbol]
    with_equals = symbol in {"<=", ">="}

    def compare(env: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        first, second = left(env), right(env)
        rank = type_rank(first)
        if not 1 <= rank <= LAST_SCALAR or rank != type_rank(second):
            return UNDEFINED
        return with_equals if first is None else test(first, second)

    return compare


def finite(value: float) -> Any:  # noqa: ANN401 - JSON
    """Return a number that JSON can hold, whole numbers as integers; `UNDEFINED` for infinities."""
    if type(value) is float:
        if not math.isfinite(value):
            return UNDEFINED
        return int(value) if value.is_integer() and abs(value) < _INT64 else value
    if -_INT64 <= value < _INT64:
        return value
    try:
        return float(value)
    except OverflowError:
        return UNDEFINED


def _numeric(apply: Callable[[float, float], float]) -> Callable[[Any, Any], Any]:
    """Return an operator that computes in doubles, as every number of the query language is one."""

    def call(left: Any, right: Any) -> Any:  # noqa: ANN401 - JSON
        if not (is_number(left) and is_number(right)):
            return UNDEFINED
        try:
            return finite(apply(float(left), float(right)))
        except (ZeroDivisionError, OverflowError, ValueError):
            return UNDEFINED

    return call


def _concatenate(left: Any, right: Any) -> Any:  # noqa: ANN401 - JSON
    if type(left) is not str or type(right) is not str or len(left) + len(right) > MAX_TEXT:
        return UNDEFINED
    return left + right


def _signed(value: float) -> int:
    """Return the 32 bits on which bit operators work, as in JavaScript."""
    bits = int(value) & 0xFFFFFFFF
    return bits - (1 << 32) if bits & 0x80000000 else bits


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
    ">>": _numeric(lambda a, b: _signed(a) >> (int(b) & 31)),
    ">>>": _numeric(lambda a, b: (int(a) & 0xFFFFFFFF) >> (int(b) & 31)),
    "||": _concatenate,
}

_SIGNS: Final[dict[str, Callable[[float], float]]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": lambda value: ~_signed(value),
}


def signed(symbol: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a number behind `-`, `+` or `~`, `UNDEFINED` for anything else."""
    return finite(_SIGNS[symbol](float(value))) if is_number(value) else UNDEFINED
