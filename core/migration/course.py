"""Keeps where a switch is, what it waits for and what it has found: whatever ends it, the report can say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.migration.checks import TO_POSTGRES, Check
from core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.migration.ports import Ports
    from core.migration.report import Report, StepOptions
    from core.settings import Settings

_CURES: Final = {
    "step": "see crossfeed phase status, and begin again",
    "drain": "end what is named, or wait until it has ended, and begin again",
    "writers": "let the writers that are named end. One that has died is waited for as long as its lease lasts: give"
    " a longer --pause-budget",
    "barrier": "see that what is named runs and is not behind (crossfeed phase plan), and begin again",
    "dead letters": "see crossfeed dead-letters list, then replay or discard them, or say how many may stay:"
    " --accept-dead-letters",
    "verification": "see crossfeed validate, then: crossfeed repair --apply",
    "flip": "see crossfeed phase status, and begin again",
    "put back": "writers are still refused. Once Postgres answers: crossfeed phase cancel, or: crossfeed phase resume",
    "watermarks": "the phase is open and takes writes. Once Cosmos DB answers: crossfeed phase resume",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a step between phases works on.

    Args:
        engine: from core.postgres.engine.open_engine, of the role that owns the captured tables.
        store: the opened Cosmos DB database.
        mappings: of everything that is captured.
        settings: limits, and how gently containers are read.
        ports: what is reached in the outbox.

    """

    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    settings: Settings
    ports: Ports


@dataclass(slots=True)
class Course:
    """The course of one switch.

    Args:
        parts: what it works on.
        report: filled in as it goes on.
        options: the operator's word, and the limits.
        progress: told of each stage.

    """

    parts: Parts
    report: Report
    options: StepOptions
    progress: Callable[[Progress], None]
    stage: str = "drain"
    waits_for: str = ""

    @property
    def is_to_postgres(self) -> bool:
        """Whether Postgres becomes the primary; else Cosmos DB does."""
        return (self.report.from_phase, self.report.to_phase) == TO_POSTGRES

    def at(self, stage: str) -> None:
        """Begin a stage."""
        self.stage, self.waits_for = stage, ""
        self.progress(Progress(stage, 0, 0))

    def waits(self, what: str) -> None:
        """Say what the stage waits for, in case that it waits in vain."""
        self.waits_for = what

    def passed(self, detail: str) -> None:
        """End a stage."""
        self.report.checks.append(Check(self.stage, ok=True, detail=detail))

    def failed(self, detail: str) -> None:
        """End a stage that was in vain, with what the operator does about it."""
        said = f"{detail}: {self.waits_for}" if self.waits_for and self.waits_for not in detail else detail
        self.report.checks.append(Check(self.stage, ok=False, detail=said, cure=_CURES[self.stage]))
