"""Judges whether documents get through the triggers: an app that answers while its leases stand still is not healthy.

The proof is end to end: a timer writes a canary into every feed range, and the range's trigger must have recorded it.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from changefeed.progress import read_triggers
from core.errors import CrossfeedError
from core.postgres.armed import trigger_problems
from core.postgres.failures import translated
from functions.phase_facts import read_standing
from functions.probing import TIMEOUT_S, answer

if TYPE_CHECKING:
    from changefeed.progress import TriggerStatus
    from functions.bootstrap import Application
    from functions.runtime import Runtime

_COUNTS = text("""
    SELECT direction || ' ' || kind, count(*) FROM crossfeed.dead_letter GROUP BY 1
    UNION ALL SELECT 'parked', count(*) FROM crossfeed.mirror_parked ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class Facts:
    """What Postgres says."""

    phase: dict[str, Any]
    triggers: TriggerStatus
    wrong: tuple[str, ...]
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong, nothing if documents get through; and the facts, None if Postgres gave none."""

    problems: tuple[str, ...]
    facts: Facts | None
    dates: str

    @property
    def is_ready(self) -> bool:
        """Whether documents get through."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        found: dict[str, Any] = {"ready": self.is_ready, "problems": list(self.problems), "dates": self.dates}
        if self.facts is not None:
            triggers = self.facts.triggers
            parked = self.facts.counts.get("parked", 0)
            found |= {
                **{name: value for name, value in self.facts.phase.items() if name != "problems"},
                "triggers": [{**asdict(item), "at": item.at.isoformat()} for item in triggers.progress],
                "failing": [asdict(item) for item in triggers.failing],
                "canaries": [asdict(item) for item in triggers.canaries],
                "parked": parked,
                "dead_letters": {name: count for name, count in self.facts.counts.items() if name != "parked"},
            }
        return found


async def health_of(runtime: Runtime) -> Health:
    """Look at everything. Takes three times TIMEOUT_S at most; raises nothing."""
    problems: list[str] = []
    try:
        async with asyncio.timeout(3 * TIMEOUT_S), runtime.application() as application:
            facts, _ = await asyncio.gather(
                answer("Postgres", _facts(application), problems),
                answer("Cosmos DB", application.store.ping(), problems),
            )
            if facts is not None:
                problems += [*facts.phase["problems"], *facts.wrong, *_lag_problems(facts.triggers, application)]
    except TimeoutError:
        return Health(("the stores cannot be reached in time",), None, runtime.dates.spelling.value)
    except CrossfeedError as error:
        return Health((str(error),), None, runtime.dates.spelling.value)
    return Health(tuple(problems), facts, runtime.dates.spelling.value)


async def _facts(application: Application) -> Facts:
    with translated("reading the state of the triggers"):
        async with application.engine.connect() as connection:
            return Facts(
                await read_standing(connection),
                await read_triggers(connection),
                tuple(await trigger_problems(connection)),
                dict(map(tuple, await connection.execute(_COUNTS))),
            )


def _lag_problems(triggers: TriggerStatus, application: Application) -> list[str]:
    most = application.settings.functions_max_lag_s
    problems = [
        f"{item.function} has failed at one batch for {item.for_s:.0f} s ({item.error}, {item.attempts} attempts)"
        for item in triggers.failing
        if item.for_s > most
    ]
    known = {item.container: item for item in triggers.canaries}
    for container in application.mappings.containers:
        canary = known.get(container)
        if canary is None:
            problems.append(f"no canary was ever written to {container!r}: its timer does not run")
        elif canary.unseen_s > most:
            problems.append(f"a change of {container!r} has not come out of its trigger for {canary.unseen_s:.0f} s")
        elif canary.written_s > 2 * most:  # none is written while one is on its way, which may take `most`
            problems.append(f"no canary was written to {container!r} for {canary.written_s:.0f} s")
    return problems
