"""What a process believes the phase to be: a belief that is young, none while the primary may be moving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.clock import boot_clock
from core.phases import PHASE_AGE_S, Phase, PhaseState
from core.postgres.phases import open_phase
from core.postgres.switching import begin_switch, flip
from core.recorded_phase import RecordedPhase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.phases import PhaseRow

FIRST, SECOND, THIRD = Phase.COSMOS_ONLY, Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ


class Clock:
    """Stands still unless it is moved."""

    now = boot_clock()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorded(engine: AsyncEngine, clock: Clock) -> RecordedPhase:
    return RecordedPhase(engine, clock)


async def step(engine: AsyncEngine, phase: Phase) -> None:
    await open_phase(engine, phase, who="test", why="test")


async def nothing(connection: AsyncConnection, row: PhaseRow) -> None:
    pass


async def test_a_steady_phase_is_believed_for_a_moment(
    engine: AsyncEngine, clock: Clock, recorded: RecordedPhase
) -> None:
    assert (await recorded.read()).phase is FIRST
    await step(engine, SECOND)
    clock.now += PHASE_AGE_S / 2
    assert (await recorded.read()).phase is FIRST
    clock.now += PHASE_AGE_S
    assert (await recorded.read()).phase is SECOND


async def test_what_was_read_before_it_was_forgotten_is_not_believed(
    engine: AsyncEngine, clock: Clock, recorded: RecordedPhase
) -> None:
    assert (await recorded.read()).phase is FIRST
    await step(engine, SECOND)
    clock.now += PHASE_AGE_S / 10
    recorded.forget()
    assert (await recorded.read()).phase is SECOND


async def test_a_phase_that_drains_is_read_each_time_so_that_its_flip_is_known_at_once(
    engine: AsyncEngine, clock: Clock, recorded: RecordedPhase
) -> None:
    await step(engine, SECOND)
    switch = await begin_switch(engine, THIRD, who="test", why="test")
    assert (await recorded.read()).state is PhaseState.DRAINING
    clock.now += PHASE_AGE_S / 10
    await flip(engine, switch.id, nothing)
    assert (await recorded.read()).phase is THIRD
