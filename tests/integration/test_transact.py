"""Crossfeed.transact: repeats what was refused before it wrote anything, through a switch too, and nothing else."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from core import Crossfeed, Phase, UnitOfWork
from core.cosmos.client import open_cosmos
from core.domain.account import Account
from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
    CrossfeedError,
    OutcomeUnknownError,
    PhasePinnedError,
    PrimaryMovedError,
    StoreUnavailableError,
)
from core.local.cosmos.faults import WRITES, Hold, Match, Rule
from core.postgres.phases import open_phase, read_phase
from core.postgres.switching import begin_switch, cancel_switch, finish_switch, flip
from core.postgres.writers import wait_for_writers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.settings import Settings

COSMOS = Phase.DUAL_WRITE_COSMOS_READ
POSTGRES = Phase.DUAL_WRITE_POSTGRES_READ
WALK = (Phase.COSMOS_ONLY, COSMOS, POSTGRES, Phase.POSTGRES_ONLY, POSTGRES, COSMOS)


@pytest.fixture
async def db(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> AsyncIterator[Crossfeed]:
    await open_phase(engine, COSMOS, who="test", why="test")
    async with Crossfeed.open(settings, mappings) as db:
        yield db


async def add(work: UnitOfWork, id_: str = "a") -> None:
    await work[Account].add(Account(id=id_))
    await work.commit()


async def count_up(work: UnitOfWork) -> int:
    account = await work[Account].get_by_id("a")
    assert account is not None
    count = int(account.display_name or 0) + 1
    account.display_name = str(count)
    await work[Account].update(account)
    await work.commit()
    return count


async def nothing(connection: AsyncConnection, row: PhaseRow) -> None:
    pass


async def step(engine: AsyncEngine, to: Phase) -> None:
    """Step to a phase, with a drain if the primary moves; what is in the stores stays where it is."""
    async with engine.connect() as connection:
        is_switch = {(await read_phase(connection)).phase, to} == {COSMOS, POSTGRES}
    if not is_switch:
        await open_phase(engine, to, who="test", why="test")
        return
    switch = await begin_switch(engine, to, who="test", why="test")
    await wait_for_writers(engine, switch.id, patience=5)
    await flip(engine, switch.id, nothing)
    await finish_switch(engine, switch.id, {})


@pytest.mark.parametrize("phase", [COSMOS, POSTGRES])
async def test_writers_that_disturb_each_other_all_get_through(
    db: Crossfeed, engine: AsyncEngine, phase: Phase
) -> None:
    if phase is POSTGRES:
        await open_phase(engine, POSTGRES, who="test", why="test")
    await db.transact(add)
    counts = await asyncio.gather(*(db.transact(count_up) for _ in range(6)))
    assert sorted(counts) == [1, 2, 3, 4, 5, 6]


async def test_callers_see_nothing_of_the_steps_to_all_phases_and_back_but_their_pauses(
    db: Crossfeed, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    is_over = asyncio.Event()
    acknowledged: dict[str, Phase] = {}

    async def keep_adding(name: str) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            id_ = f"{name}-{number}"

            async def use_case(work: UnitOfWork, id_: str = id_) -> None:
                await add(work, id_)
                # What was written is read by the same unit, and by the next one, unless the primary moved.
                assert await work[Account].exists(id_)

            await db.transact(use_case)
            acknowledged[id_] = (await db.phase()).phase
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as tasks:
        for name in "abcd":
            tasks.create_task(keep_adding(name))
        for to in WALK:
            await asyncio.sleep(0.05)
            await step(engine, to)
        await asyncio.sleep(0.1)
        is_over.set()
    async with engine.connect() as connection:
        in_postgres = set((await connection.execute(text("SELECT id FROM accounts"))).scalars())
    container = cosmos.container(mappings.of(Account))
    in_cosmos = {item["id"] async for item in container.query_items("SELECT c.id FROM c")}
    assert in_postgres
    assert in_cosmos
    assert not in_postgres & in_cosmos  # a repeated use case wrote once
    assert in_postgres | in_cosmos == acknowledged.keys()


async def test_it_gives_up_at_its_deadline(db: Crossfeed, engine: AsyncEngine) -> None:
    switch = await begin_switch(engine, POSTGRES, who="test", why="test")
    began = time.monotonic()
    with pytest.raises(PrimaryMovedError, match="draining"):
        await db.transact(add, deadline_s=0.3)
    assert 0.1 < time.monotonic() - began < 2
    await cancel_switch(engine, switch.id, why="test")
    await db.transact(add, deadline_s=0)


async def test_readers_are_not_held_up_by_a_drain(db: Crossfeed, engine: AsyncEngine) -> None:
    await db.transact(add)
    await begin_switch(engine, POSTGRES, who="test", why="test")

    async def exists(work: UnitOfWork) -> bool:
        return await work[Account].exists("a")

    assert await db.transact(exists, deadline_s=0)


REPEATED = (ConcurrencyError, PrimaryMovedError)
FINAL = (AlreadyExistsError, PhasePinnedError, StoreUnavailableError, OutcomeUnknownError, LookupError)


async def test_only_what_may_end_differently_is_repeated(db: Crossfeed) -> None:
    for kind in (*REPEATED, *FINAL):
        runs = 0

        async def use_case(work: UnitOfWork, kind: type[Exception] = kind) -> str:
            nonlocal runs
            runs += 1
            if runs < 3:
                raise kind
            return "done"

        if kind in REPEATED:
            assert await db.transact(use_case) == "done"
            assert runs == 3
        else:
            with pytest.raises(kind):
                await db.transact(use_case)
            assert runs == 1


async def test_nothing_is_repeated_after_a_commit_that_may_have_written(db: Crossfeed) -> None:
    runs = 0

    async def use_case(work: UnitOfWork) -> None:
        nonlocal runs
        runs += 1
        await add(work, "first")
        raise PrimaryMovedError

    with pytest.raises(PrimaryMovedError):
        await db.transact(use_case)
    assert runs == 1


async def test_a_commit_that_wrote_nothing_does_not_keep_it_from_being_repeated(db: Crossfeed) -> None:
    await db.transact(add)
    runs = 0

    async def use_case(work: UnitOfWork) -> None:
        nonlocal runs
        runs += 1
        try:
            await add(work, "a" if runs == 1 else "b")
        except CrossfeedError as error:
            raise ConcurrencyError from error

    await db.transact(use_case)
    assert runs == 2


async def test_a_use_case_may_use_the_connection_of_its_unit_of_work(db: Crossfeed, engine: AsyncEngine) -> None:
    await open_phase(engine, POSTGRES, who="test", why="test")

    async def use_case(work: UnitOfWork) -> int:
        connection: AsyncConnection = work.connection  # type: ignore[attr-defined] # of PostgresUnitOfWork
        return int((await connection.execute(text("SELECT 1"))).scalar_one())

    await asyncio.sleep(0.25)  # the phase of before is not believed any more
    assert await db.transact(use_case) == 1


async def test_a_write_that_a_drain_outlasted_is_unknown_and_is_not_repeated(
    settings: Settings, engine: AsyncEngine, own_cosmos_server: CosmosServer, mappings: Mappings
) -> None:
    server = own_cosmos_server
    here = settings.model_copy(
        update={"cosmos_endpoint": server.endpoint, "cosmos_key": SecretStr(server.key), "write_lease_s": 0.4}
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
    row = await open_phase(engine, COSMOS, who="test", why="test")
    async with Crossfeed.open(here, mappings) as db:
        await db.transact(add)
        server.faults.add(Rule(do=Hold(client="waits"), on=Match(operations=WRITES)))
        writing = asyncio.ensure_future(db.transact(count_up))
        async with asyncio.timeout(3):
            while not server.faults.log:  # noqa: ASYNC110 - the server says when
                await asyncio.sleep(0.01)
        switch = await begin_switch(engine, POSTGRES, who="test", why="test")
        await wait_for_writers(engine, switch.id, patience=3)
        server.faults.held.release_all()
        with pytest.raises(OutcomeUnknownError, match="right to write had ended"):
            await writing
        assert len(server.faults.log) == 1
        server.faults.clear()
        assert (await cancel_switch(engine, switch.id, why="test")).epoch == row.epoch
        assert await db.transact(count_up) == 2  # it had been carried out
