"""The one table of what every verb's exit codes mean; the help texts are made of it, and a test runs through it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from core.errors import ConfigurationError, CrossfeedError


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    INTERRUPTED = 130
    TERMINATED = 143


def code_of(error: CrossfeedError) -> ExitCode:
    """Return the exit code of a command that an error of ours has ended."""
    return ExitCode.WRONG if isinstance(error, ConfigurationError) else ExitCode.FAILED


_WRONG: Final = "a setting, an option, a mapping or a schema is wrong: nothing was done"
_INTERRUPTED: Final = "interrupted by Ctrl-C (143: by SIGTERM)"


@dataclass(frozen=True, slots=True)
class Codes:
    """What the exit codes of a verb mean where it says more than the others.

    Args:
        done: 0.
        failed: 1.
        wrong: 2.
        interrupted: 130 and 143; an empty one where a signal is the way to end it, which is 0.

    """

    done: str = "done"
    failed: str = "failed; the line on stderr says why, and what to do"
    wrong: str = _WRONG
    interrupted: str = _INTERRUPTED

    def text(self) -> str:
        """Return a paragraph for a help text."""
        meanings = {
            ExitCode.DONE: self.done,
            ExitCode.FAILED: self.failed,
            ExitCode.WRONG: self.wrong,
            ExitCode.INTERRUPTED: self.interrupted,
        }
        said = "; ".join(f"{code.value} {meaning}" for code, meaning in meanings.items() if meaning)
        return f"Exit codes: {said}."


_RUNS: Final = Codes(done="stopped by SIGTERM or Ctrl-C", failed="a store failed while it started", interrupted="")
_LOOKS: Final = Codes(failed="a store did not answer")
_RESUMES: Final = "interrupted by Ctrl-C (143: by SIGTERM); run it again: it goes on where it was"
_STEPS: Final = Codes(
    failed="refused by a check, or not done: the report says why, and what to do",
    interrupted="interrupted by Ctrl-C (143: by SIGTERM); until the primary has moved, everything is put back then",
)
_LETTERS: Final = Codes(
    failed="a letter that was named is not there, or could not be replayed or discarded; or you said no"
)

VERBS: Final[dict[str, Codes]] = {
    "migrate": Codes(failed="Postgres refused it, or the initial phase comes too late; nothing was changed"),
    "grant": Codes(failed="Postgres refused it; nothing was changed"),
    "provision": Codes(failed="Cosmos DB refused it; run it again", wrong="a setting is wrong, or nobody answers"),
    "relay": _RUNS,
    "mirror": _RUNS,
    "doctor": Codes(done="no problem was found; there may be warnings", failed="at least one problem was found"),
    "status": Codes(done="nothing is broken", failed="something is broken, or Postgres did not answer"),
    "settings": Codes(done="printed", failed=""),
    "completion": Codes(done="printed", failed="", wrong="there is no script for this shell"),
    "reconcile": Codes(failed="failed, refused, or another one is under way", interrupted=_RESUMES),
    "validate": Codes(done="both stores hold the same", failed="they do not, or a store failed"),
    "repair": Codes(done="done, or said", failed="something is left as it was, or a store failed"),
    "erase": Codes(done="erased; `is_complete` says whether it has to be run again", failed="failed, run it again"),
    "backfill": Codes(failed="failed, refused, or another one is under way", interrupted=_RESUMES),
    "demo": Codes(
        done="clean",
        failed="something was lost, stale, echoed or dead-lettered",
        wrong="an option or a document is wrong",
    ),
    "phase status": _LOOKS,
    "phase history": _LOOKS,
    "phase plan": Codes(done="nothing refuses the step", failed="a check refuses it"),
    "phase advance": _STEPS,
    "phase back": _STEPS,
    "phase resume": _STEPS,
    "phase cancel": Codes(failed="there is nothing to cancel, or the primary has moved"),
    "outbox status": _LOOKS,
    "outbox replay": Codes(failed="not possible now; nothing was changed"),
    "outbox slots": Codes(failed="not possible now; nothing was changed"),
    "outbox resync": Codes(
        failed="failed, run it again; or nothing proves that nothing was lost", interrupted=_RESUMES
    ),
    "dead-letters list": _LOOKS,
    "dead-letters parked": _LOOKS,
    "dead-letters show": Codes(failed="there is no such letter"),
    "dead-letters replay": _LETTERS,
    "dead-letters discard": _LETTERS,
    "local": _RUNS,
    "local cosmos": _RUNS,
}
"""By the words that name the verb."""

EVERY: Final = Codes(
    done="done, or nothing is wrong, or stopped by a signal that is the way to stop it",
    failed="failed, refused, or something is wrong",
)
"""What they mean in general."""
