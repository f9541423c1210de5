"""Says what a check came to, apart from what it checked: clean, something found, or not looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Verdict(IntEnum):
    """What a check came to; the number is the exit code of the command."""

    CLEAN = 0
    FOUND = 1
    NOT_LOOKED = 3
    """The source could not be reached: that is no fault of the code, and no success either."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of one check: what it came to in a sentence, and everything that was found, a line each."""

    verdict: Verdict
    summary: str
    lines: list[str] = field(default_factory=list)


def worst(checks: list[Checked]) -> Verdict:
    """Return what all of them come to: what was found weighs more than what was not looked at."""
    found = {one.verdict for one in checks}
    return next(verdict for verdict in (Verdict.FOUND, Verdict.NOT_LOOKED, Verdict.CLEAN) if verdict in found)
