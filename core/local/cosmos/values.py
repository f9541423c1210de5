"""Handles values of documents: the undefined that JSON lacks, paths into them, their bytes."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, Literal


class Undefined(Enum):
    """The type of `UNDEFINED`, the value of a property that is not there."""

    UNDEFINED = "undefined"


UNDEFINED: Final[Literal[Undefined.UNDEFINED]] = Undefined.UNDEFINED


def exact(data: bytes) -> bytes:
    """Return a copy that takes no more memory than it is long: what orjson returns holds on to its buffer."""
    return bytes(memoryview(data))


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
