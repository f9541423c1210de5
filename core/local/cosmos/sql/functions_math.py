"""Implements the mathematical functions."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.sql.operators import finite
from core.local.cosmos.sql.signature import Function, raw, typed
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable


def _number(call: Callable[..., Any], *types: str, optional: int = 0) -> Function:
    def checked(*arguments: Any) -> Any:  # noqa: ANN401 - JSON
        try:
            return finite(call(*arguments))
        except (ValueError, OverflowError, ZeroDivisionError):
            return UNDEFINED

    return typed(checked, *(types or ("n",)), optional=optional)


def _round(value: float) -> float:
    """Round half away from zero."""
    whole = math.floor(abs(value))
    return math.copysign(whole + (abs(value) - whole >= 0.5), value)  # noqa: PLR2004 - a half


def _log(value: float, base: float = math.e) -> float:
    return math.log(value) if base == math.e else math.log(value, base)


def _bin(value: float, size: float = 1) -> float:
    return math.floor(value / size) * size


def _quotient(left: float, right: float) -> int:
    """Divide whole numbers towards zero."""
    whole = abs(int(left)) // abs(int(right))
    return whole if (left < 0) == (right < 0) else -whole


def _remainder(left: float, right: float) -> int:
    """Return what `_quotient` leaves; it has the sign of the dividend."""
    return int(left) - int(right) * _quotient(left, right)


def _wrapped(value: int) -> int:
    """Return the low 64 bits of a whole number, signed."""
    bits = value & ((1 << 64) - 1)
    return bits - (1 << 64) if bits >> 63 else bits


MATH_FUNCTIONS: Final[dict[str, Function]] = {
    "ABS": _number(abs),
    "ACOS": _number(math.acos),
    "ASIN": _number(math.asin),
    "ATAN": _number(math.atan),
    "ATN2": _number(math.atan2, "n", "n"),
    "CEILING": _number(math.ceil),
    "COS": _number(math.cos),
    "COT": _number(lambda v: 1 / math.tan(v)),
    "DEGREES": _number(math.degrees),
    "EXP": _number(math.exp),
    "FLOOR": _number(math.floor),
    "INTADD": _number(lambda a, b: _wrapped(int(a) + int(b)), "i", "i"),
    "INTBITAND": _number(lambda a, b: int(a) & int(b), "i", "i"),
    "INTBITLEFTSHIFT": _number(lambda a, b: _wrapped(int(a) << (int(b) & 63)), "i", "i"),
    "INTBITNOT": _number(lambda a: ~int(a), "i"),
    "INTBITOR": _number(lambda a, b: int(a) | int(b), "i", "i"),
    "INTBITRIGHTSHIFT": _number(lambda a, b: int(a) >> (int(b) & 63), "i", "i"),
    "INTBITXOR": _number(lambda a, b: int(a) ^ int(b), "i", "i"),
    "INTDIV": _number(_quotient, "i", "i"),
    "INTMOD": _number(_remainder, "i", "i"),
    "INTMUL": _number(lambda a, b: _wrapped(int(a) * int(b)), "i", "i"),
    "INTSUB": _number(lambda a, b: _wrapped(int(a) - int(b)), "i", "i"),
    "LOG": _number(_log, "n", "n", optional=1),
    "LOG10": _number(math.log10),
    "NUMBERBIN": _number(_bin, "n", "n", optional=1),
    "PI": raw(lambda: math.pi, 0),
    "POWER": _number(math.pow, "n", "n"),
    "RADIANS": _number(math.radians),
    "RAND": raw(random.random, 0),
    "ROUND": _number(_round),
    "SIGN": _number(lambda v: (v > 0) - (v < 0)),
    "SIN": _number(math.sin),
    "SQRT": _number(math.sqrt),
    "SQUARE": _number(lambda v: v * v),
    "TAN": _number(math.tan),
    "TRUNC": _number(math.trunc),
}
