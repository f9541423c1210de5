"""Handles values of documents: the undefined that JSON lacks, paths into them, their bytes."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, Literal

MAX_NESTING: Final = 128
_MAX_DIGITS: Final = 18  # no counter needs more


class Undefined(Enum):
    """The type of `UNDEFINED`, the value of a property that is not there."""

    UNDEFINED = "undefined"


UNDEFINED: Final[Literal[Undefined.UNDEFINED]] = Undefined.UNDEFINED


def exact(data: bytes) -> bytes:
    """Return a copy that takes no more memory than it is long: what orjson returns holds on to its buffer."""
    return bytes(memoryview(data))


def too_deep(value: object, raw: bytes) -> bool:
    """Say whether a JSON value, whose bytes are `raw`, is nested more deeply than Cosmos DB allows."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_NESTING:
        return False
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        inner = [v for owner in level for v in (owner.values() if type(owner) is dict else owner)]
        level = [v for v in inner if type(v) is dict or type(v) is list]
        if not level:
            return False
    return True


def whole_number(text: str) -> int | None:
    """Return the number that a text of 1 to 18 digits is, None for any other; `int` knows more spellings, and fewer."""
    return int(text) if len(text) <= _MAX_DIGITS and text.isascii() and text.isdecimal() else None


def split_path(path: str) -> tuple[str, ...]:
    """Return the property names of a path such as `/a/b`, `/"a b"/c` or `/'a b'`."""
    parts: list[str] = []
    rest = path
    while rest:
        rest = rest.removeprefix("/")
        quote = rest[:1]
        if quote in {'"', "'"} and quote in rest[1:]:
            end = rest.index(quote, 1)
            parts.append(rest[1:end])
            rest = rest[end + 1 :]
        else:
            name, slash, rest = rest.partition("/")
            parts.append(name)
            rest = slash + rest if rest else ""
    return tuple(parts)


def walk(document: object, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON
    """Return the value of `document` under `path`, or `UNDEFINED`."""
    value: Any = document
    for name in path:
        if type(value) is not dict:
            return UNDEFINED
        value = value.get(name, UNDEFINED)
    return value
