"""Calls a validator of the user's, and looks closer at what it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class WatchedValidator:
    """A validator that runs before a value is read; what it leaves alone is looked at by what reads it.

    Args:
        function: the user's.
        check: raises ValueError for a value that may not be changed.

    """

    function: Callable[[Any], Any]
    check: Callable[[Any], Any]

    def __call__(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Return what the user's function makes of a value; raises what it raises, and what `check` raises."""
        made = self.function(value)
        if made is not value:
            self.check(value)
        return made


def original(validator: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the user's function."""
    return validator.function if isinstance(validator, WatchedValidator) else validator
