"""Judges an overview: what is broken, what wants to be looked at, and what to run about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from core.postgres.canaries import most_age_s
from core.postgres.dead_letters import Direction
from core.postgres.samples import BIN_S
from functions.page.spelling import count_of, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from changefeed.progress import TriggerStatus
    from core.postgres.samples import Series
    from core.settings import Settings
    from functions.page.overview import Overview


class Severity(StrEnum):
    """How bad it is."""

    BROKEN = "broken"
    """Writes are refused, or changes do not arrive."""
    LOOK = "look"
    """Everything flows, but somebody has to decide or to tidy up."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence of what is wrong, and what to do about it: a command where there is one."""

    severity: Severity
    what: str
    cure: str


_SIGN_BINS: Final = 300 // BIN_S
"""Five minutes: the timer that writes the samples of a Functions app may be set to come rarely."""
_SWITCH_CURE: Final = "crossfeed phase status"
_TRIGGERS_CURE: Final = "crossfeed doctor"
_STORES_CURE: Final = "crossfeed doctor"


def unreachable(why: str) -> Problem:
    """Return the problem of an overview that could not be read."""
    return Problem(Severity.BROKEN, why, _STORES_CURE)


def problems_of(overview: Overview, settings: Settings) -> tuple[Problem, ...]:
    """Return everything that is wrong, what is broken first.

    Args:
        overview: how everything stands.
        settings: what lag is too much: `relay_max_lag_s`, `mirror_max_lag_s`, `functions_max_lag_s`.

    """
    found = [*_of_phase(overview), *_of_carriers(overview), *_of_lag(overview, settings), *_of_rest(overview)]
    return tuple(sorted(found, key=lambda problem: problem.severity is not Severity.BROKEN))


def limits_of(triggers: TriggerStatus, settings: Settings) -> dict[Direction, float]:
    """Return how many seconds each direction may be behind: what readiness calls too much."""
    to_postgres = settings.functions_max_lag_s if triggers.progress else settings.mirror_max_lag_s
    return {Direction.TO_COSMOS: settings.relay_max_lag_s, Direction.TO_POSTGRES: to_postgres}


def _of_phase(overview: Overview) -> Iterator[Problem]:
    for what in overview.switch_problems:
        yield Problem(Severity.BROKEN, what, _SWITCH_CURE)
    for what in overview.trigger_problems:
        yield Problem(Severity.BROKEN, what, _TRIGGERS_CURE)


def _of_carriers(overview: Overview) -> Iterator[Problem]:
    """Judge who is there to carry; what has nothing to carry in this phase may rest."""
    holders, outbox = overview.holders, overview.outbox
    if overview.active is Direction.TO_COSMOS:
        if not holders.relays:
            yield Problem(Severity.BROKEN, "no relay runs: nothing gets to Cosmos DB", "crossfeed relay")
        elif outbox.unowned:
            what = f"{outbox.unowned} of {len(outbox.slots)} slots have no relay"
            yield Problem(Severity.BROKEN, what, "crossfeed outbox status")
    if overview.active is Direction.TO_POSTGRES:
        if not holders.processors and not _gives_a_sign(overview.series[Direction.TO_POSTGRES]):
            what = "neither a mirror nor a Functions app runs: nothing gets to Postgres"
            yield Problem(Severity.BROKEN, what, "crossfeed mirror")
        elif unowned := sum(holders.unowned_ranges.values()):
            what = f"{unowned} of {sum(holders.ranges.values())} feed ranges have no mirror"
            yield Problem(Severity.BROKEN, what, "crossfeed mirror")


def _gives_a_sign(series: Series) -> bool:
    """Whether a sample was written lately: the triggers of a Functions app hold no lease in Postgres."""
    lately = (*series.lag_s[-_SIGN_BINS:], *series.per_s[-_SIGN_BINS:])
    return any(value is not None for value in lately)


def _of_lag(overview: Overview, settings: Settings) -> Iterator[Problem]:
    oldest_s = overview.outbox.backlog.oldest_s or 0.0
    if oldest_s > settings.relay_max_lag_s:
        what = f"the oldest change for Cosmos DB has waited {duration(oldest_s)}"
        yield Problem(Severity.BROKEN, what, "crossfeed outbox status")
    lag_s, limits = overview.lag_s(Direction.TO_POSTGRES) or 0.0, limits_of(overview.triggers, settings)
    if overview.active is Direction.TO_POSTGRES and lag_s > limits[Direction.TO_POSTGRES]:
        what = f"the oldest change for Postgres has waited {duration(lag_s)}"
        yield Problem(Severity.BROKEN, what, "crossfeed doctor")
    late = [
        one
        for one in overview.canaries
        if one.age_s > most_age_s(one.direction, limits[one.direction], settings.canary_every_s)
    ]
    if late and oldest_s <= settings.relay_max_lag_s:
        oldest = max(late, key=lambda one: one.age_s)
        more = f", nor have {len(late) - 1} others" if len(late) > 1 else ""
        what = f"the canary of {oldest.part} has not crossed for {duration(oldest.age_s)}{more}"
        yield Problem(Severity.BROKEN, what, "crossfeed doctor")
    for failing in overview.triggers.failing:
        if failing.for_s > settings.functions_max_lag_s:
            what = f"{failing.function} has failed at one batch for {duration(failing.for_s)} ({failing.error})"
            yield Problem(Severity.BROKEN, what, "crossfeed doctor")


def _of_rest(overview: Overview) -> Iterator[Problem]:
    if overview.letters_in_all:
        one = overview.letters_in_all == 1
        what = f"{count_of(overview.letters_in_all, 'dead letter')} {'waits' if one else 'wait'} for a decision"
        yield Problem(Severity.LOOK, what, "crossfeed dead-letters list")
    differing = {one.entity: one.unaccounted for one in overview.parity if one.unaccounted}
    if differing:
        named = ", ".join(f"{differences:,} of {entity}" for entity, differences in differing.items())
        what = f"the last comparison found differences: {named}"
        yield Problem(Severity.LOOK, what, "crossfeed repair")
    outbox = overview.outbox
    if outbox.retention_held_s is not None:
        what = f"old messages have not been dropped for {duration(outbox.retention_held_s)}: slots have not sent them"
        yield Problem(Severity.LOOK, what, "crossfeed outbox status")
    if outbox.overflow_bytes:
        what = "messages went to the default partition: no other was made in time"
        yield Problem(Severity.LOOK, what, "crossfeed outbox status")
