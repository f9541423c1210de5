"""Spells durations, counts and moments for people who look rather than read."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

_PLENTY: Final = 10
"""From how many on the next smaller unit says nothing any more."""
_LONGEST: Final = 500
_UNITS: Final = ((24 * 3600, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def duration(seconds: float) -> str:
    """Return seconds in the one or two units that say something, such as 0.4 s, 42 s, 3 min 10 s, 40 min, 2 d 4 h."""
    if seconds < _PLENTY:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in _UNITS:
        if whole >= unit:
            rest = whole % unit // smaller
            is_enough = not rest or whole // unit >= _PLENTY
            return f"{whole // unit} {name}" + ("" if is_enough else f" {rest} {smaller_name}")
    return f"{whole} s"


def rate(per_s: float) -> str:
    """Return changes per second."""
    return f"{per_s:.1f}/s" if 0 < per_s < _PLENTY else f"{per_s:,.0f}/s"


def clipped(text: str) -> str:
    """Return the beginning of a text that is too long to be looked at."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def count_of(number: int, what: str, many: str | None = None) -> str:
    """Return a number with its noun, whose plural has an s unless `many` says otherwise."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def moment(at: datetime) -> str:
    """Return a moment to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
