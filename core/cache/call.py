"""What the entries ask of Redis, so that nothing but the link needs its client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Call:
    """One script on one key."""

    script: str
    key: str
    arguments: tuple[str | bytes | int, ...]


class Caller(Protocol):
    """Calls Redis quickly or not at all, and never with an error. What was not answered may have been done."""

    async def one(self, call: Call) -> Any:  # noqa: ANN401 - what a script returns
        """Run a script; return what it returned, None if that is not known."""
        ...

    async def many(self, calls: Sequence[Call]) -> list[Any] | None:
        """Run scripts in one round trip; return what each returned, None for one that Redis refused.

        None for all: Redis did not answer.
        """
        ...
