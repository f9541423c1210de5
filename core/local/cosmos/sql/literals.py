"""Reads the literals of the query language."""

from __future__ import annotations

from typing import Any

from core.local.cosmos.sql.operators import finite

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_EXACT = 20  # as many digits as a whole number of 64 bits may have


def unquoted(text: str) -> str:
    """Return the value of a string literal, whose quotes and escapes the grammar has checked."""
    out: list[str] = []
    position = 1
    while position < len(text) - 1:
        char = text[position]
        if char != "\\":
            out.append(char)
            position += 1
            continue
        char = text[position + 1]
        if char == "u":
            out.append(chr(int(text[position + 2 : position + 6], 16)))
            position += 6
        else:
            out.append(_ESCAPES.get(char, char))
            position += 2
    joined = "".join(out)
    return joined.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if "\\u" in text else joined


def whole_number(digits: str) -> Any:  # noqa: ANN401 - a JSON number or UNDEFINED
    """Return a whole number: exactly if 64 bits hold it, else as a double, undefined if that does not hold it."""
    digits = digits.lstrip("0") or "0"
    return finite(int(digits) if len(digits) <= _EXACT else float(digits))
