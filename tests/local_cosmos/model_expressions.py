"""What an expression of a query is worth: a plain reading of the documented rules."""

from __future__ import annotations

import ctypes
import json
import math
import operator
from typing import Any

from hypothesis import strategies as st

DOCUMENT: dict[str, Any] = {
    "t": True, "f": False, "z": None, "i": 3, "d": -2.5, "big": 9007199254740993, "s": "Abc", "e": "", "n": "12",
    "l": [1, "a", None, [2]], "o": {"i": 3, "s": "x"}, "value": 7, "a b": 1,
}  # fmt: skip
PATHS = ["t", "f", "z", "i", "d", "big", "s", "e", "n", "l", "o", "value", "a b", "missing"]


class _Undefined:
    def __repr__(self) -> str:
        return "undefined"


U = _Undefined()
LITERALS = st.sampled_from([True, False, None, 0, 1, 2, -1, 0.5, 3, 1e20, 4294967297, "", "a", "Abc", "b", "12", " 1 "])
Tree = tuple[Any, ...]


def kind(value: Any) -> str:
    """Name the JSON type of a value."""
    if value is U:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    names: dict[Any, str] = {str: "string", list: "array", dict: "object"}
    return names[type(value)]


def same(a: Any, b: Any) -> bool:
    """Say whether two JSON values are equal; there is no equality across types."""
    if kind(a) != kind(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return sorted(a) == sorted(b) and all(same(a[name], b[name]) for name in a)
    return bool(a == b)


def number(result: float) -> Any:
    return result if math.isfinite(result) else U


def arithmetic(symbol: str, a: Any, b: Any) -> Any:  # noqa: PLR0911 - a dispatch
    if kind(a) != "number" or kind(b) != "number":
        return U
    x, y = float(a), float(b)
    if symbol in "/%":
        if y == 0:
            return U
        return number(x / y if symbol == "/" else math.fmod(x, y))
    if symbol in "+-*":
        return number({"+": operator.add, "-": operator.sub, "*": operator.mul}[symbol](x, y))
    left, right = ctypes.c_int32(int(float(x))).value, ctypes.c_int32(int(float(y))).value
    match symbol:
        case "&":
            return left & right
        case "|":
            return left | right
        case "^":
            return left ^ right
        case "<<":
            return ctypes.c_int32(left << (right % 32)).value
        case ">>":
            return left >> (right % 32)
    return ctypes.c_uint32(left).value >> (right % 32)


def ordered(symbol: str, a: Any, b: Any) -> Any:
    if kind(a) != kind(b) or kind(a) in {"undefined", "array", "object"}:
        return U
    x, y = (0, 0) if a is None else (a, b)
    return {"<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}[symbol]


def negated(value: Any) -> Any:
    return not value if isinstance(value, bool) else U


def both(a: Any, b: Any) -> Any:
    if a is False or b is False:
        return False
    return True if a is True and b is True else U


def either(a: Any, b: Any) -> Any:
    return negated(both(negated(a), negated(b)))


def strings(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def whole(value: Any) -> bool:
    return kind(value) == "number" and float(value).is_integer() and abs(value) < 2**63


def substring(text: Any, start: Any, length: Any) -> Any:
    if not strings(text) or not whole(start) or not whole(length):
        return U
    return "".join(char for at, char in enumerate(text) if start >= 0 and start <= at < start + length)


def right(text: Any, length: Any) -> Any:
    if not strings(text) or not whole(length):
        return U
    return "".join(char for at, char in enumerate(text) if at >= len(text) - length)


def sliced(items: Any, start: Any) -> Any:
    if not isinstance(items, list) or not whole(start):
        return U
    first = start if start >= 0 else len(items) + start
    return [item for at, item in enumerate(items) if at >= first]


def call(name: str, values: list[Any]) -> Any:  # noqa: C901, PLR0911, PLR0912 - a dispatch
    """Compute a function as the documentation describes it."""
    first: Any = values[0]
    second: Any = values[1] if len(values) > 1 else U
    if name.startswith("IS_"):
        types = {"BOOL": {"boolean"}, "PRIMITIVE": {"null", "boolean", "number", "string"}}
        wanted = name.removeprefix("IS_")
        if wanted == "DEFINED":
            return first is not U
        return whole(first) if wanted == "INTEGER" else kind(first) in types.get(wanted, {wanted.lower()})
    match name:
        case "CONTAINS":
            return second in first if strings(first, second) else U
        case "STARTSWITH":
            return first[: len(second)] == second if strings(first, second) else U
        case "ENDSWITH":
            return first[max(0, len(first) - len(second)) :] == second if strings(first, second) else U
        case "INDEX_OF":
            return first.find(second) if strings(first, second) else U
        case "LENGTH":
            return len(first) if strings(first) else U
        case "REVERSE":
            return "".join(reversed(first)) if strings(first) else U
        case "LOWER":
            return first.lower() if strings(first) else U
        case "LEFT":
            return substring(first, 0, second)
        case "RIGHT":
            return right(first, second)
        case "SUBSTRING":
            return substring(*values)
        case "ABS" | "FLOOR" | "CEILING" | "TRUNC":
            functions: Any = {"ABS": abs, "FLOOR": math.floor, "CEILING": math.ceil, "TRUNC": math.trunc}
            return functions[name](float(first)) if kind(first) == "number" else U
        case "SIGN":
            return math.copysign(1, first) * (first != 0) if kind(first) == "number" else U
        case "ARRAY_LENGTH":
            return len(first) if isinstance(first, list) else U
        case "ARRAY_CONTAINS":
            return any(same(item, second) for item in first) if isinstance(first, list) and second is not U else U
        case "ARRAY_SLICE":
            return sliced(first, second)
        case "IIF":
            return values[1] if first is True else values[2]
    raise AssertionError(name)


ARITY = dict.fromkeys(
    ["IS_DEFINED", "IS_NULL", "IS_BOOL", "IS_NUMBER", "IS_STRING", "IS_ARRAY", "IS_OBJECT", "IS_PRIMITIVE",
     "IS_INTEGER", "LENGTH", "REVERSE", "LOWER", "ABS", "FLOOR", "CEILING", "TRUNC", "SIGN", "ARRAY_LENGTH"], 1
) | dict.fromkeys(
    ["CONTAINS", "STARTSWITH", "ENDSWITH", "INDEX_OF", "LEFT", "RIGHT", "ARRAY_CONTAINS", "ARRAY_SLICE"], 2
) | {"SUBSTRING": 3, "IIF": 3}  # fmt: skip


def expected(tree: Tree) -> Any:  # noqa: C901, PLR0911, PLR0912 - a dispatch
    """Compute an expression over `DOCUMENT`."""
    match tree:
        case ("literal", value):
            return value
        case ("path", name):
            return DOCUMENT.get(name, U)
        case ("array", *items):
            return [value for item in items if (value := expected(item)) is not U]
        case ("object", *items):
            return {f"k{at}": value for at, item in enumerate(items) if (value := expected(item)) is not U}
        case ("element", owner, index):
            found, at = expected(owner), expected(index)
            if isinstance(found, dict) and strings(at):
                return found.get(at, U)
            return found[int(at)] if isinstance(found, list) and whole(at) and 0 <= at < len(found) else U
        case ("NOT", operand):
            return negated(expected(operand))
        case ("-" | "+" | "~" as sign, operand):
            value = expected(operand)
            if kind(value) != "number":
                return U
            return ~ctypes.c_int32(int(float(value))).value if sign == "~" else arithmetic(sign, 0, value)
        case ("AND", a, b):
            return both(expected(a), expected(b))
        case ("OR", a, b):
            return either(expected(a), expected(b))
        case ("??", a, b):
            return expected(b) if expected(a) is U else expected(a)
        case ("||", a, b):
            return expected(a) + expected(b) if strings(expected(a), expected(b)) else U
        case ("=" | "!=" as symbol, a, b):
            x, y = expected(a), expected(b)
            return U if x is U or y is U else same(x, y) is (symbol == "=")
        case ("<" | "<=" | ">" | ">=" as symbol, a, b):
            return ordered(symbol, expected(a), expected(b))
        case ("?", test, a, b):
            return expected(a) if expected(test) is True else expected(b)
        case ("IN", value, *choices):
            wanted = expected(value)
            return U if wanted is U else any(same(wanted, expected(choice)) for choice in choices)
        case ("BETWEEN", value, low, high):
            return both(ordered(">=", expected(value), expected(low)), ordered("<=", expected(value), expected(high)))
        case ("call", name, *arguments):
            return call(name, [expected(argument) for argument in arguments])
        case (symbol, a, b):
            return arithmetic(symbol, expected(a), expected(b))
    raise AssertionError(tree)


def text(tree: Tree) -> str:  # noqa: PLR0911 - a dispatch
    """Write an expression in the query language, with parentheses wherever there is an operator."""
    parts = [text(part) if isinstance(part, tuple) else part for part in tree[1:]]
    match tree[0]:
        case "literal":
            return json.dumps(tree[1])
        case "path":
            return f'c["{tree[1]}"]' if tree[1] in {"value", "a b"} else f"c.{tree[1]}"
        case "array":
            return f"[{', '.join(parts)}]"
        case "object":
            return "{" + ", ".join(f"'k{at}': {part}" for at, part in enumerate(parts)) + "}"
        case "element":
            return f"{parts[0]}[{parts[1]}]"
        case "call":
            return f"{parts[0]}({', '.join(parts[1:])})"
        case "?":
            return f"({parts[0]} ? {parts[1]} : {parts[2]})"
        case "IN":
            return f"({parts[0]} IN ({', '.join(parts[1:])}))"
        case "BETWEEN":
            return f"({parts[0]} BETWEEN {parts[1]} AND {parts[2]})"
    return f"({tree[0]} {parts[0]})" if len(parts) == 1 else f"({parts[0]} {tree[0]} {parts[1]})"
