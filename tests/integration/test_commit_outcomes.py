"""A commit whose answer was lost: Postgres is asked what became of it, and nothing is repeated in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.domain.account import Account
from core.entity import loaded
from core.errors import CrossfeedError, OutcomeUnknownError, StoreUnavailableError
from core.phases import Phase
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.cutting_proxy import CuttingProxy, engine_through, proxy_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
async def proxy(settings: Settings, engine: AsyncEngine) -> AsyncIterator[CuttingProxy]:
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    async with proxy_of(settings) as listening:
        yield listening


@pytest.fixture
async def through_proxy(settings: Settings, proxy: CuttingProxy) -> AsyncIterator[AsyncEngine]:
    async with engine_through(settings, proxy) as opened:
        yield opened


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.exec_driver_sql("SELECT count(*) FROM accounts")).scalar_one())


async def test_a_commit_that_took_effect_is_reported_as_done(
    engine: AsyncEngine, through_proxy: AsyncEngine, mappings: Mappings, proxy: CuttingProxy
) -> None:
    account = Account(id="a")
    async with PostgresUnitOfWork(through_proxy, mappings) as work:
        await work[Account].add(account)
        proxy.cut = "after"
        await work.commit()
    assert await count(engine) == 1
    assert loaded(account) is not None


async def test_a_commit_that_never_arrived_is_reported_as_not_done(
    engine: AsyncEngine, through_proxy: AsyncEngine, mappings: Mappings, proxy: CuttingProxy
) -> None:
    account = Account(id="a")
    async with PostgresUnitOfWork(through_proxy, mappings) as work:
        await work[Account].add(account)
        proxy.cut = "before"
        with pytest.raises(StoreUnavailableError):
            await work.commit()
    assert await count(engine) == 0
    assert loaded(account) is None, "a failed commit leaves the entity as it was"


async def test_a_commit_that_nobody_can_tell_about_is_reported_as_unknown(
    through_proxy: AsyncEngine, mappings: Mappings, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.postgres.unit_of_work._ASK_FOR_S", 0.5)
    async with PostgresUnitOfWork(through_proxy, mappings) as work:
        await work[Account].add(Account(id="a"))
        proxy.cut, proxy.refuse = "after", True
        with pytest.raises(OutcomeUnknownError) as caught:
            await work.commit()
    assert isinstance(caught.value, CrossfeedError)
    assert caught.value.__cause__ is not None


async def test_a_second_transaction_of_a_unit_is_not_confirmed_by_the_first(
    engine: AsyncEngine, through_proxy: AsyncEngine, mappings: Mappings, proxy: CuttingProxy
) -> None:
    async with PostgresUnitOfWork(through_proxy, mappings) as work:
        await work[Account].add(Account(id="a"))
        await work.commit()
        await work.connection.exec_driver_sql("INSERT INTO accounts (id) VALUES ('b')")
        proxy.cut = "before"
        with pytest.raises(OutcomeUnknownError):
            await work.commit()
    assert await count(engine) == 1
