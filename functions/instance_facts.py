"""Reads what the database says of the whole installation, for the metrics that every process serves alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from changefeed.progress import TriggerStatus, read_triggers
from core.migration.parity_record import RecordedParity, read_parity
from core.postgres.canaries import CanaryLag, read_canaries
from core.postgres.dead_letters import Direction
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from functions.probing import answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.metric_families import Samples
    from core.phases import PhaseRow

_SWITCH = """
    SELECT CASE WHEN step = 'draining' THEN extract(epoch FROM clock_timestamp() - drained_at)::float8 ELSE 0.0 END,
        extract(epoch FROM clock_timestamp() - started_at)::float8
    FROM crossfeed.switch WHERE step IN ('draining', 'opened')
"""
_LETTERS = "SELECT direction, count(*) FROM crossfeed.dead_letter GROUP BY direction"


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What is the same for all processes of one installation. Times are in seconds, 0.0 where nothing is under way."""

    phase: PhaseRow
    draining_s: float
    switch_s: float
    canaries: Sequence[CanaryLag]
    dead_letters: Mapping[Direction, int]
    parity: Sequence[RecordedParity]
    triggers: TriggerStatus


async def facts_of_instance(engine: AsyncEngine) -> InstanceFacts | None:
    """Return the facts, None if Postgres does not give them within functions.probing.TIMEOUT_S; raises nothing."""
    return await answer("Postgres", _read(engine), [])


async def _read(engine: AsyncEngine) -> InstanceFacts:
    with translated("reading the state of the installation"):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return await read_instance(connection)


async def read_instance(connection: AsyncConnection) -> InstanceFacts:
    """Read the facts.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    switch = (await connection.exec_driver_sql(_SWITCH)).first()
    draining_s, switch_s = (0.0, 0.0) if switch is None else tuple(switch)
    letters = dict(map(tuple, await connection.exec_driver_sql(_LETTERS)))
    return InstanceFacts(
        phase=await read_phase(connection),
        draining_s=draining_s,
        switch_s=switch_s,
        canaries=await read_canaries(connection),
        dead_letters={direction: letters.get(direction.value, 0) for direction in Direction},
        parity=await read_parity(connection),
        triggers=await read_triggers(connection),
    )


def add_instance(samples: Samples, facts: InstanceFacts) -> None:
    """Add the samples of these facts; needs the extra `http`."""
    from core.metric_families import add_phase  # noqa: PLC0415 - of the extra `http`

    add_phase(samples, facts.phase)
    samples.add("crossfeed_draining_seconds", facts.draining_s)
    samples.add("crossfeed_switch_seconds", facts.switch_s)
    for direction, count in facts.dead_letters.items():
        samples.add("crossfeed_dead_letters", count, direction=direction.value)
    for direction in Direction:
        canaries = [canary for canary in facts.canaries if canary.direction is direction]
        if canaries:
            oldest_s = max(canary.age_s for canary in canaries)
            samples.add("crossfeed_canary_age_seconds", oldest_s, direction=direction.value)
        if lags := [canary.lag_s for canary in canaries if canary.lag_s is not None]:
            samples.add("crossfeed_canary_lag_seconds", max(lags), direction=direction.value)
    for one in facts.parity:
        samples.add("crossfeed_parity_differences", one.unaccounted, entity=one.entity)
        samples.add("crossfeed_parity_age_seconds", one.age_s, entity=one.entity)
    for trigger in facts.triggers.progress:
        samples.add("crossfeed_trigger_documents_total", trigger.documents, function=trigger.function)
    for failing in facts.triggers.failing:
        samples.add("crossfeed_trigger_failing_seconds", failing.for_s, function=failing.function)
