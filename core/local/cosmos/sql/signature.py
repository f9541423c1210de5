"""Describes a built-in function and the types of its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Function:
    """A function of `minimum` to `maximum` arguments, on JSON values or `UNDEFINED`."""

    call: Callable[..., Any]
    minimum: int
    maximum: int


def raw(call: Callable[..., Any], minimum: int, maximum: int | None = None) -> Function:
    """Return a function that handles any argument itself."""
    return Function(call, minimum, minimum if maximum is None else maximum)


def typed(call: Callable[..., Any], *types: str, optional: int = 0) -> Function:
    """Return a function that is undefined unless its arguments have the given types.

    `types` are letters: `s` string, `n` number, `i` integer, `b` boolean, `a` array, `o` object, `v` any defined value.
    The last `optional` of them may be left out.
    """

    def checked(*arguments: Any) -> Any:  # noqa: ANN401 - JSON
        for kind, argument in zip(types, arguments, strict=False):
            if not _is(kind, argument):
                return UNDEFINED
        return call(*arguments)

    return Function(checked, len(types) - optional, len(types))


def _is(kind: str, value: object) -> bool:  # noqa: PLR0911 - a table
    match kind:
        case "s":
            return type(value) is str
        case "n":
            return type(value) in {int, float}
        case "i":
            return type(value) is int or (type(value) is float and value.is_integer())
        case "b":
            return type(value) is bool
        case "a":
            return type(value) is list
        case "o":
            return type(value) is dict
    return value is not UNDEFINED
