"""The switch of the primary, both ways: nothing acknowledged is lost, and whatever fails is put back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from core.errors import OutcomeUnknownError, StoreUnavailableError
from core.migration.approach import Approach
from core.migration.report import Outcome
from core.postgres.switch_record import SwitchStep
from core.postgres.switching import cancel_switch, flip
from tests.integration.migration_steps import COSMOS, POSTGRES, Town, asks_nothing, quick_town
from tests.integration.relay_steps import run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
def town(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Town:
    """An installation whose primary moves."""
    return quick_town(settings, engine, cosmos, mappings)


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be asked before the drain: what happens after it is what the test is about."""
    monkeypatch.setattr("core.migration.switch.preflight", asks_nothing)


async def test_a_writer_goes_there_and_back_without_an_error_and_nothing_is_lost(town: Town) -> None:
    await town.put(COSMOS)
    async with town.relaying(), town.mirroring():
        async with town.writing() as acknowledged:
            await asyncio.sleep(0.2)
            there = await town.to(POSTGRES)
            first = len(acknowledged)
            await asyncio.sleep(0.2)
            back = await town.to(COSMOS)
            await asyncio.sleep(0.2)
        assert [report.outcome for report in (there, back)] == [Outcome.DONE, Outcome.DONE], (there, back)
        assert len(acknowledged) > first > 0
        assert set(acknowledged) <= await town.documents()
        await until(lambda: arrived(town, acknowledged))
    assert (there.epoch, back.epoch) == (3, 4)
    assert there.pause_ms is not None
    assert there.lag_ms is not None
    assert there.lag_ms < there.pause_ms
    recorded = await town.last()
    assert recorded.step is SwitchStep.DONE
    assert recorded.report is not None
    assert recorded.report["outcome"] == "done"
    assert recorded.report["pause_ms"] == back.pause_ms


async def arrived(town: Town, acknowledged: list[str]) -> bool:
    return set(acknowledged) <= await town.accounts()


@pytest.mark.usefixtures("unasked")
async def test_a_relay_that_is_down_is_named_and_postgres_takes_writes_again(town: Town) -> None:
    await town.put(POSTGRES)
    await town.add("a")
    report = await town.to(COSMOS, pause_budget_s=0.5)
    assert report.outcome is Outcome.CANCELLED
    [refused] = report.refused_by
    assert refused.name == "barrier"
    assert "slots 0, 1" in refused.detail
    assert refused.cure
    assert await town.is_as_before(POSTGRES, 2)
    await town.add("b")
    assert (await town.last()).report == report.facts()


@pytest.mark.usefixtures("unasked")
async def test_a_mirror_that_is_down_is_named_and_cosmos_takes_writes_again(town: Town) -> None:
    await town.put(COSMOS)
    await town.add("a")
    report = await town.to(POSTGRES, pause_budget_s=0.5)
    assert report.outcome is Outcome.CANCELLED
    [refused] = report.refused_by
    assert refused.name == "barrier"
    assert "1 of 1 feed ranges" in refused.detail
    assert await town.is_as_before(COSMOS, 2)
    await town.add("b")


@pytest.mark.usefixtures("unasked")
async def test_stores_that_differ_keep_the_primary_where_it_is(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.migration.approach.SETTLE_S", 0.2)
    await town.put(POSTGRES)
    await town.add("a")
    await town.add("b")
    async with town.relaying():
        await until(lambda: has_arrived(town, {"a", "b"}))
        await town.store.container_named("Accounts").delete_item("b", "b")
        report = await town.to(COSMOS)
    assert report.outcome is Outcome.CANCELLED
    [refused] = report.refused_by
    assert refused.name == "verification"
    assert "missing" in refused.detail
    assert report.parity is not None
    assert report.parity["entities"]["Account"]["total"] == 1
    assert await town.is_as_before(POSTGRES, 2)


async def has_arrived(town: Town, ids: set[str]) -> bool:
    return ids <= await town.documents()


@pytest.mark.usefixtures("unasked")
async def test_what_comes_into_the_log_after_the_verification_is_sent_before_the_flip(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the mirror's, when it heals a late write."""
    looks: list[bool] = []
    relay = AsyncExitStack()

    async def and_heal(approach: Approach, *args: Any, **kwargs: Any) -> None:
        await verify(approach, *args, **kwargs)
        if not looks:
            await relay.aclose()
            async with town.engine.begin() as connection:
                await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
                await connection.exec_driver_sql(HEALED)

    async def and_look(approach: Approach) -> bool:
        looks.append(await look(approach))
        if not looks[-1]:
            await relay.enter_async_context(town.relaying())
        return looks[-1]

    verify, look = Approach.verify, Approach.flip
    monkeypatch.setattr(Approach, "verify", and_heal)
    monkeypatch.setattr(Approach, "flip", and_look)
    await town.put(POSTGRES)
    await town.add("a")
    async with relay:
        await relay.enter_async_context(town.relaying())
        report = await town.to(COSMOS)
    assert report.is_done, report
    assert looks == [False, True]
    [document] = await town.claims("a")
    assert document["version"] == 2


@pytest.mark.usefixtures("unasked")
async def test_dead_letters_are_counted_and_as_many_as_are_accepted_may_stay(town: Town) -> None:
    await town.put(POSTGRES)
    letter = (
        "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason)"
        " VALUES ('to_cosmos', 'refused', 'Account', 'x', 'x', 'a test')"
    )
    await run(town.engine, letter)
    async with town.relaying():
        refused = await town.to(COSMOS)
        assert refused.refused_by[0].name == "dead letters"
        assert "--accept-dead-letters" in refused.refused_by[0].cure
        assert await town.is_as_before(POSTGRES, 2)
        accepted = await town.to(COSMOS, accept_dead_letters=1)
    assert accepted.is_done
    assert accepted.dead_letters == 1


@pytest.mark.usefixtures("unasked")
async def test_a_cosmos_that_is_away_in_the_middle_is_named_and_postgres_alone_puts_everything_back(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        msg = "Cosmos DB does not answer"
        raise StoreUnavailableError(msg)

    await town.put(COSMOS)
    monkeypatch.setattr("core.migration.barrier.write_marks", away)
    async with town.mirroring():
        report = await town.to(POSTGRES, pause_budget_s=0.4)
    assert report.outcome is Outcome.CANCELLED
    assert [(check.name, check.detail) for check in report.refused_by] == [
        ("barrier", "it took too long: Cosmos DB does not answer")
    ]
    assert await town.is_as_before(COSMOS, 2)


@pytest.mark.usefixtures("unasked")
async def test_a_signal_in_the_middle_puts_everything_back(town: Town) -> None:
    await town.put(POSTGRES)
    switching = asyncio.create_task(town.to(COSMOS))
    await until(lambda: is_draining(town))
    while not switching.done():  # as somebody does who presses Ctrl-C again and again
        switching.cancel()
        await asyncio.sleep(0.005)
    with pytest.raises(asyncio.CancelledError):
        await switching
    assert await town.is_as_before(POSTGRES, 2)
    assert (await town.last()).step is SwitchStep.CANCELLED


async def is_draining(town: Town) -> bool:
    return await town.pending() is not None


@pytest.mark.usefixtures("unasked")
async def test_a_process_that_slept_while_its_switch_was_cancelled_opens_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.put(COSMOS)

    async def sleep(approach: Approach) -> bool:
        switch = await town.pending()
        assert switch is not None
        await cancel_switch(town.engine, switch.id, why="another operator")
        return await awake(approach)

    awake = Approach.flip
    monkeypatch.setattr(Approach, "flip", sleep)
    async with town.mirroring():
        report = await town.to(POSTGRES)
    assert report.outcome is Outcome.CANCELLED
    assert "is cancelled" in report.refused_by[0].detail
    assert await town.is_as_before(COSMOS, 2)


@pytest.mark.usefixtures("unasked")
async def test_a_flip_whose_answer_was_lost_is_a_flip(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(*args: Any, **kwargs: Any) -> None:
        await flip(*args, **kwargs)
        msg = "no answer"
        raise OutcomeUnknownError(msg)

    await town.put(COSMOS)
    monkeypatch.setattr("core.migration.approach.flip", lose)
    async with town.mirroring():
        report = await town.to(POSTGRES)
    assert report.outcome is Outcome.DONE
    row = await town.row()
    assert (row.phase, row.epoch) == (POSTGRES, 3)
    assert await town.watermarks() == {2, 3}


HEALED = """
    WITH healed AS (
        UPDATE accounts SET crossfeed_version = crossfeed_version + 1 WHERE id = 'a'
        RETURNING crossfeed_epoch AS epoch, crossfeed_version AS version)
    INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
    SELECT crossfeed.slot_of('Account', '["a"]', 'a'), 'Account', '["a"]', 'a', epoch, version, false FROM healed
"""
