"""Phase cosmos_only without Postgres: the application runs on Cosmos DB alone, in the epoch that was noted there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core import Crossfeed, Phase, UnitOfWork
from core.cosmos.client import open_cosmos
from core.cosmos.markers import Charter, Markers
from core.cosmos.noted_phase import note_phase, read_noted_phase
from core.domain.account import Account
from core.entity import loaded
from core.errors import ConfigurationError
from core.phases import PhaseRow, PhaseState

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


def opened(phase: Phase, epoch: int) -> PhaseRow:
    return PhaseRow(phase, epoch, PhaseState.STEADY)


@pytest.fixture
def alone(settings: Settings) -> Settings:
    return settings.model_copy(update={"postgres_dsn": None, "phase": Phase.COSMOS_ONLY})


async def epoch_of_a_write(settings: Settings, mappings: Mappings, id_: str = "a") -> int:
    account = Account(id=id_)
    async with Crossfeed.open(settings, mappings) as db:

        async def write(work: UnitOfWork) -> None:
            await work[Account].add(account)
            await work.commit()

        await db.transact(write)
        async with db.unit_of_work() as work:
            assert await work[Account].exists(id_)
        assert (await db.phase()).phase is Phase.COSMOS_ONLY
    state = loaded(account)
    assert state is not None
    return state.stamp.epoch


async def test_an_application_writes_in_the_first_epoch_before_any_step(
    alone: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    assert await epoch_of_a_write(alone, mappings) == 1


async def test_it_needs_no_container_of_ours(alone: Settings, cosmos: CosmosStore, mappings: Mappings) -> None:
    await cosmos.client.get_database_client(cosmos.database).delete_container(cosmos.own.control.name)
    assert await epoch_of_a_write(alone, mappings) == 1


async def test_after_a_migration_that_came_back_it_writes_in_the_epoch_that_was_noted(
    alone: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    for row in (opened(Phase.DUAL_WRITE_COSMOS_READ, 4), opened(Phase.COSMOS_ONLY, 5)):
        await note_phase(cosmos, "here", row)
    assert await epoch_of_a_write(alone, mappings, "a") == 5
    assert await Markers(cosmos, cosmos.own.control.name, "here").grant(Charter("h", 6, None, 1), None)
    assert await epoch_of_a_write(alone, mappings, "b") == 6  # a re-sync opens epochs too, and is no step


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_COSMOS_READ, Phase.POSTGRES_ONLY])
async def test_it_does_not_start_once_the_phase_is_another(
    alone: Settings, cosmos: CosmosStore, mappings: Mappings, phase: Phase
) -> None:
    await note_phase(cosmos, "here", opened(phase, 2))
    with pytest.raises(ConfigurationError, match=rf"phase {phase.label} was opened .epoch 2.: set CROSSFEED_POSTGRES"):
        async with Crossfeed.open(alone, mappings):
            pass


async def test_without_postgres_only_a_process_that_is_pinned_to_cosmos_only_starts(
    settings: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    for phase in (None, Phase.DUAL_WRITE_COSMOS_READ):
        other = settings.model_copy(update={"postgres_dsn": None, "phase": phase})
        with pytest.raises(ConfigurationError, match="CROSSFEED_POSTGRES_DSN is not set"):
            async with Crossfeed.open(other, mappings):
                pass


async def test_what_is_noted_never_goes_back_whoever_notes_it(settings: Settings, cosmos: CosmosStore) -> None:
    rows = [opened(Phase(epoch % 4), epoch) for epoch in range(2, 8)]
    async with open_cosmos(settings) as other:
        notes = [note_phase(store, "here", row) for row in reversed(rows) for store in (cosmos, other)]
        await asyncio.gather(*notes, note_phase(other, "elsewhere", opened(Phase.COSMOS_ONLY, 3)))
    assert await read_noted_phase(cosmos) == rows[-1]
