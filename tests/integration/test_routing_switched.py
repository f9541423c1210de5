"""What a real switch accepts to leave behind is found by the application afterwards, and by nobody else's doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from core.crossfeed import Crossfeed
from core.domain.account import Account, Accounts
from tests.integration.migration_steps import COSMOS, POSTGRES, asks_nothing, quick_town
from tests.integration.relay_steps import until

if TYPE_CHECKING:
    import pytest
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


async def run(engine: AsyncEngine, statement: str) -> int:
    async with engine.begin() as connection:
        return (await connection.execute(text(statement))).rowcount


async def test_a_document_that_postgres_refuses_is_read_before_and_after_the_switch_that_accepts_it(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.migration.switch.preflight", asks_nothing)
    town = quick_town(settings, engine, cosmos, mappings)
    await town.put(COSMOS)
    await run(engine, "ALTER TABLE accounts ADD CONSTRAINT plain CHECK (display_name <> 'odd')")
    async with town.relaying(), town.mirroring(), Crossfeed.open(settings, mappings) as db:
        for id_, name in (("a", "plain"), ("b", "odd")):
            async with db.unit_of_work() as work:
                await work[Account].add(Account(id=id_, email=f"{id_}@x.org", display_name=name))
                await work.commit()

        async def is_refused() -> bool:
            return bool(await run(engine, "SELECT FROM crossfeed.dead_letter"))

        await until(is_refused)
        report = await town.to(POSTGRES, accept_dead_letters=1)
        assert report.is_done, report
        async with db.unit_of_work() as work:
            assert await work.of(Accounts).exists_by_email("b@x.org")
            assert [account.id for account in await work[Account].list()] == ["a", "b"]
        await run(engine, "ALTER TABLE accounts DROP CONSTRAINT plain")
    async with Crossfeed.open(settings, mappings) as db:  # another process: this one remembers what was refused
        async with db.unit_of_work() as work:
            found = await work[Account].get_by_id("b")
            assert found is not None
            await work[Account].delete(found)
            await work.commit()
        async with db.unit_of_work() as work:
            assert [account.id for account in await work[Account].list()] == ["a"]
