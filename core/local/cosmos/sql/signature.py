"""Describes a built-in function and the types of its arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.errors import bad_request
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import regex

MAX_SECONDS: Final = 10.0
_QUICK: Final = 0.001  # seconds: a match of a pattern that takes no longer is none that never ends
_INT64 = 1 << 63
MANY = 1 << 16  # how many arguments a function takes that takes any number


@dataclass(frozen=True, slots=True)
class Function:
    """A function of `minimum` to `maximum` arguments, on JSON values or `UNDEFINED`.

    With `contextual` it gets the `Context` of its query before them.
    """

    call: Callable[..., Any]
    minimum: int
    maximum: int
    contextual: bool = False


@dataclass(slots=True)
class Context:
    """What all parts of a query share: when it runs (ticks since 1970), and how much of what could never end is left.

    `patience` are seconds for patterns that match slowly, `rows` what joins and sub-queries may make. The query `began`
    at this time of the monotonic clock, and while it runs nobody else is served: it has `MAX_SECONDS`.
    """

    ticks: int
    patience: float = 0.5
    rows: int = 1_000_000
    began: float = field(default_factory=monotonic)

    @property
    def elapsed(self) -> float:
        """How long the query has run, in seconds."""
        return monotonic() - self.began

    def go_on(self) -> None:
        """Look at the time: to be called for each row, and before whatever may take as long as its values are large.

        Raises:
            CosmosError: 400 if the query has run for too long.
        """
        if monotonic() - self.began > MAX_SECONDS:
            message = f"The query takes longer than {MAX_SECONDS:.0f} seconds."
            raise bad_request(message)

    def matches(self, find: Callable[..., regex.Match[str] | None], text: str, pattern: str) -> bool:
        """Say whether a compiled pattern is found in a text; `pattern` is how the query spells it.

        Raises:
            CosmosError: 400 if that takes too long.
        """
        started = thread_time()
        try:
            return find(text, timeout=self.patience) is not None
        except TimeoutError as error:
            message = f"The pattern {pattern[:100]!r} takes too long to match."
            raise bad_request(message) from error
        finally:
            # All slow matches of a query share one allowance: ten thousand are as bad as one that never ends.
            # CPU time: a busy machine is not the pattern's fault.
            spent = thread_time() - started
            if spent > _QUICK:
                self.patience = max(1e-6, self.patience - spent)

    def spend_row(self) -> None:
        """Count a row of a join or a sub-query.

        Raises:
            CosmosError: 400 if there were too many, or the query has run for too long.
        """
        self.rows -= 1
        if self.rows < 0:
            raise bad_request("The joins and sub-queries of the query make too many rows.")
        self.go_on()


def raw(call: Callable[..., Any], minimum: int, maximum: int | None = None) -> Function:
    """Return a function that handles any argument itself."""
    return Function(call, minimum, minimum if maximum is None else maximum)


def typed(call: Callable[..., Any], *types: str, optional: int = 0, contextual: bool = False) -> Function:
    """Return a function that is undefined unless its arguments have the given types.

    `types` are letters: `s` string, `n` number, `i` integer, `b` boolean, `a` array, `o` object, `v` any defined value.
    The last `optional` of them may be left out.
    """

    def checked(*arguments: Any) -> Any:  # noqa: ANN401 - JSON
        for kind, argument in zip(types, arguments, strict=False):
            if not _is(kind, argument):
                return UNDEFINED
        return call(*arguments)

    def checked_in(context: Context, *arguments: Any) -> Any:  # noqa: ANN401 - JSON
        for kind, argument in zip(types, arguments, strict=False):
            if not _is(kind, argument):
                return UNDEFINED
        return call(context, *arguments)

    return Function(checked_in if contextual else checked, len(types) - optional, len(types), contextual)


def any_true(results: Iterable[Any]) -> Any:  # noqa: ANN401 - a boolean or UNDEFINED
    """Join results by OR: one that is undefined counts unless another is true."""
    return _joined(results, deciding=True)


def all_true(results: Iterable[Any]) -> Any:  # noqa: ANN401 - a boolean or UNDEFINED
    """Join results by AND: one that is undefined counts unless another is false."""
    return _joined(results, deciding=False)


def _joined(results: Iterable[Any], *, deciding: bool) -> Any:  # noqa: ANN401 - a boolean or UNDEFINED
    joined: Any = not deciding
    for result in results:
        if result is deciding:
            return deciding
        if result is UNDEFINED:
            joined = UNDEFINED
    return joined


def is_integer(value: object) -> bool:
    """Say whether a value is a whole number of 64 bits."""
    if type(value) is float:
        return value.is_integer() and -_INT64 <= value < _INT64
    return type(value) is int and -_INT64 <= value < _INT64


def _is(kind: str, value: object) -> bool:  # noqa: PLR0911 - a table
    match kind:
        case "s":
            return type(value) is str
        case "n":
            return type(value) is int or type(value) is float
        case "i":
            return is_integer(value)
        case "b":
            return type(value) is bool
        case "a":
            return type(value) is list
        case "o":
            return type(value) is dict
    return value is not UNDEFINED
