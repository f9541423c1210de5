"""What an examination is made of: what was asked, what was found, where, why it matters, and what to run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

FORMAT: Final = 1
"""Of the JSON: grows when a name in it goes or changes its meaning, not when one is added."""


class Level(StrEnum):
    """How bad a finding is: data stands still, is lost or is open to others (`problem`), or may be (`warning`)."""

    PROBLEM = "problem"
    WARNING = "warning"


class Status(StrEnum):
    """How a question was answered; `skipped`: it could not be asked, or does not arise here."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, in sentences for an operator, without payloads and secrets.

    Args:
        what: is wrong.
        where: a setting, a table, a container, a process.
        why: it matters.
        run: what cures it: a command where there is one.
        level: how bad it is.

    """

    what: str
    where: str
    why: str
    run: str
    level: Level = Level.PROBLEM


@dataclass(frozen=True, slots=True)
class Examined:
    """One question with its answer.

    Args:
        name: a word or two; the same in every report.
        detail: what was found where nothing is wrong, or why it was not asked.
        findings: what is wrong.
        is_skipped: whether it was not asked.
        is_silence: whether nothing was said in time.

    """

    name: str
    detail: str
    findings: tuple[Finding, ...] = ()
    is_skipped: bool = False
    is_silence: bool = False

    @property
    def status(self) -> Status:
        """The worst of it."""
        if any(finding.level is Level.PROBLEM for finding in self.findings):
            return Status.PROBLEM
        if self.findings:
            return Status.WARNING
        return Status.SKIPPED if self.is_skipped else Status.OK


def answer(name: str, findings: list[Finding], otherwise: str) -> Examined:
    """Return the answer that consists of these findings, or of what is said where there are none."""
    return Examined(name, "" if findings else otherwise, tuple(findings))


def skipped(name: str, why: str) -> Examined:
    """Return the answer to a question that was not asked."""
    return Examined(name, why, is_skipped=True)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All answers, in the order in which they were asked."""

    answers: tuple[Examined, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether there is no problem; warnings are none."""
        return all(one.status is not Status.PROBLEM for one in self.answers)

    def facts(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "format": FORMAT,
            "healthy": self.is_healthy,
            "problems": self._count(Level.PROBLEM),
            "warnings": self._count(Level.WARNING),
            "checks": [
                {
                    "name": one.name,
                    "status": one.status.value,
                    "detail": one.detail,
                    "findings": [{**asdict(finding), "level": finding.level.value} for finding in one.findings],
                }
                for one in self.answers
            ],
        }

    def _count(self, level: Level) -> int:
        return sum(finding.level is level for one in self.answers for finding in one.findings)
