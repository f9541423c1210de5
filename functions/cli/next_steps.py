"""Says after an error what to run next, where the error alone does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.errors import (
    ConfigurationError,
    HistoryLostError,
    OutcomeUnknownError,
    PrimaryMovedError,
    TransientError,
)

if TYPE_CHECKING:
    from core.errors import CrossfeedError

_ON_ITS_OWN: Final = ("local", "demo", "doctor", "completion")
"""Verbs that do not use the stores that the settings name."""


def next_step(error: CrossfeedError, verb: str) -> str | None:
    """Return a command, and what it is good for; None where the error says it itself.

    Args:
        error: what has ended the command.
        verb: the first word of the command.

    """
    if verb in _ON_ITS_OWN:
        return None
    match error:
        case HistoryLostError():
            return "crossfeed outbox resync --dry-run   says what was lost"
        case OutcomeUnknownError():
            return "run the same command again: what was done already is not done twice"
        case PrimaryMovedError():
            return "crossfeed phase status   says which store takes writes"
        case ConfigurationError() | TransientError():
            return "crossfeed doctor   looks at everything, and names what cures it"
        case _:
            return None
