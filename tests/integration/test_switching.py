"""The recorded steps of a switch: each wholly or not at all, for the switch that it is of, and never two at once."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from core.errors import ConflictError, OutcomeUnknownError, StoreUnavailableError
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres import capture
from core.postgres.armed import trigger_problems
from core.postgres.phases import open_phase, reopen_phase
from core.postgres.switch_record import SwitchStep, read_switch, switch_history
from core.postgres.switching import cancel_switch, finish_switch, flip, note_switch
from tests.integration.cutting_proxy import engine_through, proxy_of
from tests.integration.relay_steps import connect, logged, run
from tests.integration.switching_steps import (
    COSMOS,
    POSTGRES,
    drain,
    nothing,
    recorded,
    renew,
    start_in,
    triggers,
)
from tests.integration.test_g1_fence import refused

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings


async def problems(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return await trigger_problems(connection)


@pytest.mark.parametrize(("from_", "to"), [(COSMOS, POSTGRES), (POSTGRES, COSMOS)])
async def test_a_switch_goes_through_its_steps_and_is_on_record(
    engine: AsyncEngine, settings: Settings, from_: Phase, to: Phase
) -> None:
    await start_in(engine, from_)
    switch = await drain(engine, to)
    assert (switch.step, switch.from_phase, switch.to_phase, switch.who) == ("draining", from_, to, "operator")
    assert await recorded(engine) == (PhaseRow(from_, 2, PhaseState.DRAINING), switch)
    assert await problems(engine) == []
    async with await connect(settings) as psql:
        assert await refused(psql, "INSERT INTO accounts (id) VALUES ('a')") == "CF001"
        assert not (await renew(engine))[3], "both primaries are closed"
        await note_switch(engine, switch.id, {"barrier": {"Accounts": 5}, "complete": True})
        await note_switch(engine, switch.id, {"complete": False})
        assert await flip(engine, switch.id, nothing) == PhaseRow(to, 3, PhaseState.STEADY)
        assert await problems(engine) == []
        assert (await refused(psql, "INSERT INTO accounts (id) VALUES ('a')")) == (None if to is POSTGRES else "CF001")
        assert (await renew(engine))[3] == (to is COSMOS)
    with pytest.raises(ConflictError, match="resume it first"):
        await start_in(engine, Phase(to + (to - from_)))
    with pytest.raises(ConflictError, match="under way"):
        await drain(engine, from_)
    await finish_switch(engine, switch.id, {"pause_ms": 7})
    await finish_switch(engine, switch.id, {"pause_ms": 7})
    row, pending = await recorded(engine)
    async with engine.connect() as connection:
        done = await read_switch(connection, switch.id)
        newest = (await switch_history(connection, 10))[0]
    assert pending is None
    assert done is not None
    assert (done.step, done.opened_epoch, done.report) == ("done", row.epoch, {"pause_ms": 7})
    assert done.facts == {"barrier": {"Accounts": 5}, "complete": False}
    assert (newest.phase, newest.epoch, newest.who, newest.why) == (to, 3, "operator", "because")
    assert newest.switch == done


@pytest.mark.parametrize(("from_", "to"), [(COSMOS, POSTGRES), (POSTGRES, COSMOS)])
async def test_a_cancelled_switch_leaves_everything_as_it_was(
    engine: AsyncEngine, settings: Settings, from_: Phase, to: Phase
) -> None:
    await start_in(engine, from_)
    before = await triggers(engine)
    switch = await drain(engine, to)
    row = await cancel_switch(engine, switch.id, why="too slow", report={"pause_ms": 9})
    assert (row, None) == await recorded(engine) == (PhaseRow(from_, 2, PhaseState.STEADY), None)
    assert await triggers(engine) == before
    async with await connect(settings) as psql:
        written = await refused(psql, "INSERT INTO accounts (id) VALUES ('a')") is None
    assert written == (from_ is POSTGRES) == (len(await logged(engine)) == 1) != (await renew(engine))[3]
    async with engine.connect() as connection:
        [newest, *_] = await switch_history(connection, 10)
    assert newest.switch is not None
    assert (newest.phase, newest.epoch, newest.switch.step) == (from_, 2, SwitchStep.CANCELLED)
    assert (newest.switch.facts, newest.switch.report) == ({"cancelled": "too slow"}, {"pause_ms": 9})


async def test_a_process_that_slept_through_the_end_of_its_switch_changes_nothing(engine: AsyncEngine) -> None:
    await start_in(engine, POSTGRES)
    slept = await drain(engine, COSMOS)
    await cancel_switch(engine, slept.id, why="gone")
    for is_another_under_way in (False, True):
        if is_another_under_way:
            await drain(engine, COSMOS)
        before = (await recorded(engine), await triggers(engine))
        for step in (
            lambda: flip(engine, slept.id, nothing),
            lambda: cancel_switch(engine, slept.id, why="again"),
            lambda: note_switch(engine, slept.id, {"late": True}),
            lambda: finish_switch(engine, slept.id, {}),
        ):
            with pytest.raises(ConflictError):
                await step()
        assert (await recorded(engine), await triggers(engine)) == before


async def test_only_a_move_of_the_primary_drains(engine: AsyncEngine) -> None:
    for phase in (Phase.COSMOS_ONLY, COSMOS, POSTGRES, Phase.POSTGRES_ONLY):
        if phase is not Phase.COSMOS_ONLY:
            await start_in(engine, phase)
        for to in set(Phase) - ({COSMOS, POSTGRES} if phase in (COSMOS, POSTGRES) else set()) - {phase}:
            with pytest.raises(ConflictError, match="does not move the primary"):
                await drain(engine, to)
    assert (await recorded(engine))[1] is None


async def test_of_two_switches_at_once_one_is_refused(engine: AsyncEngine) -> None:
    await start_in(engine, POSTGRES)
    results = await asyncio.gather(drain(engine, COSMOS), drain(engine, COSMOS), return_exceptions=True)
    [lost] = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(lost, ConflictError)
    with pytest.raises(IntegrityError, match="switch_pending"):
        await run(
            engine,
            "INSERT INTO crossfeed.switch (id, from_phase, to_phase, from_epoch, step, by_whom, why)"
            " VALUES (gen_random_uuid(), 1, 2, 2, 'draining', '', '')",
        )


@pytest.mark.parametrize(("from_", "to"), [(COSMOS, POSTGRES), (POSTGRES, COSMOS)])
async def test_what_fails_within_the_flip_rolls_it_back(engine: AsyncEngine, from_: Phase, to: Phase) -> None:
    await start_in(engine, from_)
    switch = await drain(engine, to)
    before = await triggers(engine)

    async def fail(connection: AsyncConnection, row: PhaseRow) -> None:
        await connection.execute(text("UPDATE crossfeed.slot SET token = token + 1"))
        assert row == PhaseRow(to, 3, PhaseState.STEADY)
        raise ConflictError("a document arrived")

    with pytest.raises(ConflictError, match="arrived"):
        await flip(engine, switch.id, fail)
    assert (await recorded(engine), await triggers(engine)) == (
        (PhaseRow(from_, 2, PhaseState.DRAINING), switch),
        before,
    )


async def test_no_other_step_opens_an_epoch_while_a_switch_drains(engine: AsyncEngine, settings: Settings) -> None:
    await start_in(engine, POSTGRES)
    switch = await drain(engine, COSMOS)
    with pytest.raises(ConflictError, match="under way"):
        await open_phase(engine, Phase.POSTGRES_ONLY, who="test", why="test")
    with pytest.raises(ConflictError, match="under way"):
        await reopen_phase(engine, 0, nothing, who="test", why="test")
    async with await connect(settings) as psql:
        assert await refused(psql, "SELECT crossfeed.open_epoch(1::smallint, 'me', 'by hand')") == "CF005"
    assert (await recorded(engine))[1] == switch


async def test_a_table_that_is_captured_during_a_drain_is_fenced_as_well(
    engine: AsyncEngine, settings: Settings, mappings: Mappings
) -> None:
    await start_in(engine, POSTGRES)
    async with engine.begin() as connection:
        await connection.run_sync(capture.remove, "Account")
    async with engine.connect() as installing:
        await installing.run_sync(capture.install, next(each for each in mappings if each.name == "Account"))
        draining = asyncio.create_task(drain(engine, COSMOS))
        await asyncio.sleep(0.2)
        assert not draining.done(), "it has to know of the table"
        await installing.commit()
    await draining
    assert await problems(engine) == []
    async with await connect(settings) as psql:
        assert await refused(psql, "INSERT INTO accounts (id) VALUES ('a')") == "CF001"


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_step_whose_commit_was_not_answered_is_asked_for(
    engine: AsyncEngine, settings: Settings, cut: str
) -> None:
    await start_in(engine, POSTGRES)
    async with proxy_of(settings) as proxy, engine_through(settings, proxy) as cutting:

        async def begin() -> None:
            await drain(cutting, COSMOS)

        async def open_() -> None:
            pending = (await recorded(engine))[1]
            assert pending is not None
            await flip(cutting, pending.id, nothing)

        for step, reached in ((begin, SwitchStep.DRAINING), (open_, SwitchStep.OPENED)):
            proxy.cut = cut
            if cut == "before":
                with pytest.raises(StoreUnavailableError):
                    await step()
            await step()
            found = (await recorded(engine))[1]
            assert found is not None
            assert found.step is reached


async def test_a_step_that_nobody_can_tell_about_is_reported_as_unknown(
    engine: AsyncEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.postgres.switching._SETTLING_S", 0.1)
    await start_in(engine, POSTGRES)
    async with proxy_of(settings) as proxy, engine_through(settings, proxy) as cutting:
        proxy.cut = "after"
        proxy.refuse = True
        with pytest.raises(OutcomeUnknownError):
            await drain(cutting, COSMOS)
    switch = (await recorded(engine))[1]
    assert switch is not None
    assert await flip(engine, switch.id, nothing) == PhaseRow(COSMOS, 3, PhaseState.STEADY)
    with pytest.raises(ConflictError, match="not on record"):
        await finish_switch(engine, uuid.uuid4(), {})
