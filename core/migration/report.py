"""What a step between phases is told, what it plans, and what it reports: facts that an operator and a script read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from core.phases import Phase

if TYPE_CHECKING:
    from core.migration.checks import Check

TIMEOUT_S: Final = 900.0
PAUSE_BUDGET_S: Final = 30.0
FOREIGN_QUIET_S: Final = 60.0
SETTLE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What an operator may say about a step.

    Args:
        timeout_s: how long the whole step may take until the flip, in seconds; then it puts everything back.
        pause_budget_s: how long writers may be refused, from the drain to the flip, in seconds; then the same.
        accept_dead_letters: how many dead letters the step may leave behind.
        writers_restarted: the operator's word that every writer of Cosmos DB runs with Postgres; leaving phase 0 asks
            for it.
        foreign_quiet_s: for how long no foreign writer may have written before the primary moves.
        settle_s: how long what is under way may take to arrive before it counts as a difference, in seconds.

    """

    timeout_s: float = TIMEOUT_S
    pause_budget_s: float = PAUSE_BUDGET_S
    accept_dead_letters: int = 0
    writers_restarted: bool = False
    foreign_quiet_s: float = FOREIGN_QUIET_S
    settle_s: float = SETTLE_S


OPTIONS: Final = StepOptions()
"""What holds where an operator says nothing."""


class Outcome(StrEnum):
    """How a step ended."""

    DONE = "done"
    REFUSED = "refused"
    """A check said no before anything was changed."""
    CANCELLED = "cancelled"
    """It began, did not come to the flip, and everything is as it was before."""
    OPENED = "opened"
    """The primary has moved, but its watermarks or its end are not written: resume it."""
    DRAINING = "draining"
    """Writers are still refused, because nothing could be put back: resume or cancel it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a step would do, and what would refuse it. Nothing was changed."""

    from_phase: Phase
    to_phase: Phase
    epoch: int
    does: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def is_possible(self) -> bool:
        """Whether no check refuses it."""
        return all(check.ok for check in self.checks)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON spells it."""
        return {**_spelled(asdict(self)), "is_possible": self.is_possible}


@dataclass(slots=True)
class Report:
    """What a step did. Filled in as the step goes on, and recorded at its end.

    `epoch` is the epoch that it left behind; `pause_ms` how long writers were refused, None where nobody was; `lag_ms`
    how long the other side needed to catch up after the drain; `parity` what the comparison of both stores found;
    `dead_letters` how many were accepted.
    """

    from_phase: Phase
    to_phase: Phase
    epoch: int
    who: str
    why: str
    started_at: datetime
    outcome: Outcome = Outcome.REFUSED
    switch: UUID | None = None
    pause_ms: float | None = None
    lag_ms: float | None = None
    parity: dict[str, Any] | None = None
    dead_letters: int = 0
    checks: list[Check] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether the phase that was asked for is open, completely."""
        return self.outcome is Outcome.DONE

    @property
    def refused_by(self) -> list[Check]:
        """What kept it from being done, each with its cure."""
        return [check for check in self.checks if not check.ok]

    def facts(self) -> dict[str, Any]:
        """Return it as JSON spells it."""
        return _spelled(asdict(self))


def _spelled(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: _spell(value) for name, value in facts.items()}


def _spell(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    match value:
        case Phase():
            return value.label
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case list() | tuple():
            return [_spell(item) for item in value]
        case _:
            return value
