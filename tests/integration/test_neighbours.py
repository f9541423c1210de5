"""The steps that drain nobody: 0 <-> 1 and 2 <-> 3; and what Cosmos DB missed in phase 3 is sent before it follows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.markers import Charter, Markers
from core.cosmos.noted_phase import read_noted_phase
from core.errors import ConflictError, StoreUnavailableError
from core.migration.catch_up import send_changes
from core.migration.report import Outcome
from core.phases import Phase, PhaseRow, PhaseState
from tests.integration.migration_steps import COSMOS, POSTGRES, Town, quick_town
from tests.integration.relay_steps import run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.migration.catch_up import Hold, Log
    from core.migration.catch_up_round import Sent
    from core.migration.checks import Check
    from core.settings import Settings


@pytest.fixture
def town(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Town:
    """An installation in phase 0."""
    return quick_town(settings, engine, cosmos, mappings)


async def test_phase_0_is_left_with_the_operators_word_that_its_writers_know_postgres(town: Town) -> None:
    refused = await town.to(COSMOS, writers_restarted=False)
    assert refused.outcome is Outcome.REFUSED
    assert "--writers-restarted" in refused.refused_by[0].cure
    assert (await town.row()).epoch == 1
    assert (await town.to(COSMOS)).is_done
    assert await town.watermarks() == {2}
    assert (await town.to(Phase.COSMOS_ONLY)).is_done
    assert await town.watermarks() == {2, 3}


async def test_a_step_over_a_phase_is_refused_by_name(town: Town) -> None:
    report = await town.to(POSTGRES)
    assert report.outcome is Outcome.REFUSED
    assert [check.name for check in report.refused_by] == ["order"]


async def test_a_table_that_is_captured_but_not_mapped_here_refuses_every_step(town: Town) -> None:
    report = await Town(town.settings, town.engine, town.store, type(town.mappings)(list(town.mappings)[:1])).to(COSMOS)
    assert report.outcome is Outcome.REFUSED
    assert report.refused_by[0].name == "mappings"
    assert "UserProfile" in report.refused_by[0].detail


async def test_an_announcement_that_was_lost_is_made_by_a_resume(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        msg = "no answer"
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patched:
        patched.setattr("core.migration.announcing.write_watermarks", fail)
        patched.setattr("core.migration.ending.ANNOUNCE_S", 0.2)
        report = await town.to(COSMOS)
    assert report.outcome is Outcome.OPENED
    assert "crossfeed phase resume" in report.refused_by[0].cure
    assert await town.watermarks() == set()
    assert (await town.resume()).is_done
    assert await town.watermarks() == {2}
    with pytest.raises(ConflictError, match="no switch"):
        await town.resume()


async def test_an_announcement_that_got_no_further_than_the_charter_is_made_by_a_resume(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> None:
        raise asyncio.CancelledError

    async with town.engine.connect() as connection:
        instance = (await connection.exec_driver_sql("SELECT instance::text FROM crossfeed.lineage")).scalar_one()
    markers = Markers(town.store, town.store.own.control.name, instance)
    assert await markers.grant(Charter("h", 1, None, 1), None)  # a relay has run here before
    with monkeypatch.context() as patched:
        patched.setattr("core.migration.announcing.write_watermarks", die)
        with pytest.raises(asyncio.CancelledError):
            await town.to(COSMOS)
    assert await read_noted_phase(town.store) == PhaseRow(Phase.COSMOS_ONLY, 2, PhaseState.STEADY)
    assert (await town.resume()).is_done
    assert (await read_noted_phase(town.store)).phase is COSMOS
    with pytest.raises(ConflictError, match="no switch"):
        await town.resume()


async def test_a_step_that_was_checked_in_another_epoch_opens_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: object, **__: object) -> list[Check]:
        await town.put(COSMOS)
        await town.put(Phase.COSMOS_ONLY)
        return []

    monkeypatch.setattr("core.migration.switch.preflight", slow)
    report = await town.to(COSMOS)
    assert report.outcome is Outcome.REFUSED
    assert "somebody has made a step" in report.refused_by[0].detail
    assert (await town.row()).epoch == 3


async def test_what_was_written_in_phase_3_reaches_cosmos_before_and_after_it_follows_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.put(POSTGRES)
    async with town.relaying():
        await town.add("kept")
        await town.add("deleted")
        await until(lambda: holds(town, {"kept", "deleted"}))
        assert (await town.to(Phase.POSTGRES_ONLY)).is_done
        await run(town.engine, "DELETE FROM accounts WHERE id = 'deleted'")
        await town.add("new")
        await town.store.container_named("Accounts").create_item({"id": "rogue"})
        await write_between_comparison_and_flip(town, monkeypatch)
        report = await town.to(POSTGRES)
        assert report.is_done, report
        await until(lambda: holds(town, {"kept", "new", "late"}))
    assert report.epoch == 4
    assert await town.watermarks() == {2, 3, 4}


async def write_between_comparison_and_flip(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write once after the last comparison, and let the relay pass what was written."""
    hold = type(town.migration._parts.ports.hold)
    renew = hold.renew

    async def write(log: Log, held: Hold) -> None:
        await renew(log, held)
        await town.add("late")
        await asyncio.sleep(0.4)

    monkeypatch.setattr(hold, "renew", write)


async def holds(town: Town, ids: set[str]) -> bool:
    return await town.documents() == ids


async def test_a_step_from_phase_3_whose_hold_was_lost_opens_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.put(Phase.POSTGRES_ONLY)
    hold = type(town.migration._parts.ports.hold)
    rewind = hold.rewind

    async def too_late(log: Log, connection: AsyncConnection, held: Hold, opened: PhaseRow) -> None:
        await connection.exec_driver_sql("DELETE FROM crossfeed.log_hold")
        await rewind(log, connection, held, opened)

    monkeypatch.setattr(hold, "rewind", too_late)
    async with town.relaying():
        report = await town.to(POSTGRES)
    assert report.outcome is Outcome.REFUSED
    assert [check.name for check in report.refused_by] == ["step"]
    assert await town.is_as_before(Phase.POSTGRES_ONLY, 2)


async def test_a_comparison_that_takes_longer_than_the_hold_lasts_keeps_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.put(Phase.POSTGRES_ONLY)
    hold = type(town.migration._parts.ports.hold)
    renew, renewed = hold.renew, asyncio.Event()

    async def told(log: Log, held: Hold) -> None:
        await renew(log, held)
        renewed.set()

    async def slow(*args: Any, **options: Any) -> Sent:
        await asyncio.wait_for(renewed.wait(), 5)
        return await send_changes(*args, **options)

    monkeypatch.setattr(hold, "renew", told)
    monkeypatch.setattr("core.migration.steps.RENEW_S", 0.01)
    monkeypatch.setattr("core.migration.steps.send_changes", slow)
    async with town.relaying():
        assert (await town.to(POSTGRES)).is_done
