"""What the clients of a history write down of all they do, before and after it, and how it is read back."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Kind(StrEnum):
    """What a write does."""

    ADD = "add"
    UPDATE = "update"
    DELETE = "delete"


class Outcome(StrEnum):
    """What its writer was told. UNKNOWN is also what a writer that was killed has never heard."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Seen:
    """A state of a document as somebody read it; None for both where there was none."""

    stamp: Stamp | None = None
    token: str | None = None


ABSENT = Seen()


@dataclass(frozen=True, slots=True)
class Write:
    """One attempt at a write.

    Args:
        session: the process that made it.
        document: which one.
        kind: what it does.
        token: what it leaves in the document; no two attempts have the same.
        base: the state that it was decided on.
        begun: when, in nanoseconds of the machine's monotonic clock; everything it does came later.
        ended: when its outcome was known, None for never.
        outcome: of this attempt.
        stamp: of what was written, where that is known: not of deletes, nor without an answer.

    """

    session: str
    document: str
    kind: Kind
    token: str
    base: Seen
    begun: int
    ended: int | None
    outcome: Outcome
    stamp: Stamp | None

    @property
    def version(self) -> int | None:
        """The version that it is, or would be if it took effect; None for an add that was not answered."""
        if self.stamp is not None:
            return self.stamp.version
        return None if self.base.stamp is None else self.base.stamp.version + 1


@dataclass(frozen=True, slots=True)
class Read:
    """One document read by one process between two moments."""

    session: str
    document: str
    begun: int
    ended: int
    seen: Seen


@dataclass(frozen=True, slots=True)
class History:
    """All that the clients have written down."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Intent:
    """A write that is about to be sent."""

    document: str
    kind: Kind
    token: str
    base: Seen


class Log:
    """Where one process writes down what it does; a line is in the file before anything else happens.

    Args:
        file: its own.
        session: its name.

    """

    def __init__(self, file: Path, session: str) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._session = session

    def attempt(self, operation: int, begun: int, writes: Iterable[Intent]) -> None:
        """Say what is about to be committed in one unit of work; what was attempted before was refused."""
        self._line("attempt", operation, begun, [[w.document, w.kind, w.token, *_plain(w.base)] for w in writes])

    def ended(self, operation: int, outcome: Outcome, stamps: Iterable[Stamp | None] = ()) -> None:
        """Say what became of the last attempt."""
        self._line("ended", operation, time.monotonic_ns(), outcome, list(stamps))

    def read(self, document: str, begun: int, seen: Seen) -> None:
        """Say what was read."""
        self._line("read", document, begun, time.monotonic_ns(), *_plain(seen))

    def _line(self, *facts: Any) -> None:
        os.write(self._descriptor, json.dumps([self._session, *facts]).encode() + b"\n")


def read_logs(files: Iterable[Path]) -> History:
    """Read what any number of processes have written down; what one was just writing when it was killed is left out."""
    history = History()
    for file in files:
        operations: dict[int, _Operation] = defaultdict(_Operation)
        for line in file.read_bytes().split(b"\n")[:-1]:
            session, what, *facts = json.loads(line)
            match what:
                case "read":
                    document, begun, ended, stamp, token = facts
                    history.reads.append(Read(session, document, begun, ended, _seen(stamp, token)))
                case "attempt":
                    operation, begun, writes = facts
                    operations[operation].attempts.append((session, begun, writes))
                case "ended":
                    operation, *end = facts
                    operations[operation].end = end
        for each in operations.values():
            history.writes.extend(each.writes())
    return history


@dataclass(slots=True)
class _Operation:
    """Everything of one operation: its attempts, and (when, outcome, stamps) of its end if there was one."""

    attempts: list[tuple[str, int, list[Any]]] = field(default_factory=list)
    end: list[Any] | None = None

    def writes(self) -> Iterable[Write]:
        last = len(self.attempts) - 1
        for number, (session, begun, writes) in enumerate(self.attempts):
            outcome, ended, stamps = Outcome.REFUSED, None, []
            if number == last:
                ended, outcome, stamps = self.end or (None, Outcome.UNKNOWN, [])
            for index, (document, kind, token, *base) in enumerate(writes):
                stamp = Stamp(*stamps[index]) if stamps and stamps[index] else None
                yield Write(session, document, Kind(kind), token, _seen(*base), begun, ended, Outcome(outcome), stamp)


def _plain(seen: Seen) -> tuple[Stamp | None, str | None]:
    return seen.stamp, seen.token


def _seen(stamp: list[int] | None, token: str | None) -> Seen:
    return Seen(None if stamp is None else Stamp(*stamp), token)
