"""The fallback when the backfill cannot be done: what was read is served, nothing hangs, and nothing is overwritten."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from core.domain.account import Account, Accounts
from core.domain.events import AccountRegistered
from core.domain.mappings import ACCOUNTS, PENDING_SIGNUPS
from core.domain.pending_signup import PendingSignup
from core.errors import AlreadyExistsError, ConcurrencyError, ConflictError
from core.phases import Phase
from core.postgres.engine import open_engine
from core.query import Order, Query
from tests.integration.routing_steps import App, barrier_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.repository import UnitOfWork
    from core.settings import Settings


@pytest.fixture
async def app(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> AsyncIterator[App]:
    """Phase 2 after a switch that left documents behind; no two rows may have one e-mail."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE UNIQUE INDEX ON accounts (email)"))
    async with App.open(engine, cosmos, mappings, settings, barrier=barrier_of(mappings)) as app:
        yield app


async def values(engine: AsyncEngine, query: str) -> list[object]:
    async with engine.connect() as connection:
        return list((await connection.execute(text(query))).scalars())


async def rename(work: UnitOfWork, account: Account) -> None:
    account.display_name = "renamed"
    await work[Account].update(account)


async def test_a_unit_whose_own_lock_is_in_the_way_is_served_and_cannot_update_what_is_no_row(
    app: App, engine: AsyncEngine
) -> None:
    await app.foreign(ACCOUNTS, {"id": "left", "Email": "one@x.org"})
    async with asyncio.timeout(10), app.unit() as work:
        await work[Account].add(Account(id="new", email="one@x.org"))  # its lock is what the backfill waits for
        found = await work[Account].get_by_id("left")
        assert found is not None
        assert [account.id for account in await work[Account].list()] == ["left", "new"]
        assert await work[Account].count() == 2
        with pytest.raises(ConcurrencyError):
            await rename(work, found)
    assert await values(engine, "SELECT id FROM accounts") == []


async def test_with_one_connection_a_read_waits_for_no_other(
    app: App, settings: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await app.foreign(ACCOUNTS, {"id": "left", "Email": "one@x.org"})
    async with open_engine(settings.model_copy(update={"postgres_pool_size": 1})) as narrow:
        alone = replace(app, engine=narrow, routing=app.routing_on(narrow, settings))
        async with asyncio.timeout(5), alone.unit() as work:
            assert await work[Account].exists("left")
    assert await values(app.engine, "SELECT id FROM accounts") == []


async def test_what_postgres_refuses_is_served_in_its_place_and_its_letter_is_written_once(
    app: App, engine: AsyncEngine
) -> None:
    async with app.unit() as work:
        for id_, name in (("a", "B"), ("z", "D")):
            await work[Account].add(Account(id=id_, email=f"{id_}@x.org", display_name=name))
        await work.commit()
    await app.foreign(ACCOUNTS, {"id": "left", "Email": "a@x.org", "DisplayName": "C"}, {"id": "odd", "Email": ["?"]})
    for _ in range(3):
        async with app.unit() as work:
            by_name = Query(order_by=Order("display_name", descending=True))
            assert [account.id for account in await work[Account].list(by_name)] == ["z", "left", "a"]
            assert [account.id async for account in work[Account].stream(by_name)] == ["z", "left", "a"]
            assert [found.id for found in await work[Account].list(replace(by_name, limit=2))] == ["z", "left"]
            assert await work[Account].count() == 3
            assert await work.of(Accounts).exists_by_email("a@x.org")
            assert await work[Account].get_by_id("odd") is None
            left = await work[Account].get_by_id("left")
            assert left is not None
            with pytest.raises(ConcurrencyError):
                await rename(work, left)
    with pytest.raises(AlreadyExistsError):
        async with app.unit() as work:
            await work[Account].add(Account(id="left", email="other@x.org"))
    letters = await values(engine, "SELECT id || ' ' || attempts FROM crossfeed.dead_letter ORDER BY id")
    assert letters == ["left 1", "odd 1"]


async def test_a_process_pinned_to_another_phase_reads_and_backfills_nothing(app: App, settings: Settings) -> None:
    await app.foreign(ACCOUNTS, {"id": "left"})
    pinned = settings.model_copy(update={"phase": Phase.POSTGRES_ONLY})
    async with replace(app, routing=app.routing_on(app.engine, pinned)).unit() as work:
        assert await work[Account].exists("left")
    assert await values(app.engine, "SELECT id FROM accounts") == []


async def test_a_unit_that_began_before_a_step_reads_and_backfills_nothing(app: App, engine: AsyncEngine) -> None:
    await app.foreign(ACCOUNTS, {"id": "left"})
    async with app.unit() as work:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT crossfeed.open_epoch(2::smallint, 'tests', 'a re-sync')"))
        assert await work[Account].exists("left")
    assert await values(engine, "SELECT id FROM accounts") == []


async def test_under_readers_and_deleters_at_once_deletes_stay_and_nobody_sees_an_error(
    app: App, engine: AsyncEngine
) -> None:
    ids = [f"a{number}" for number in range(6)]
    await app.foreign(ACCOUNTS, *({"id": id_, "Email": f"{id_}@x.org"} for id_ in ids))
    deleted: set[str] = set()

    async def read(id_: str) -> None:
        was_deleted = id_ in deleted
        async with app.unit() as work:
            assert await work[Account].exists(id_) is False or not was_deleted
            assert {found.id for found in await work[Account].list()}.isdisjoint(set() if not was_deleted else {id_})

    async def delete(id_: str) -> None:
        with suppress(ConflictError):
            async with app.unit() as work:
                account = await work[Account].get_by_id(id_)
                if account is not None:
                    await work[Account].delete(account)
                    await work.commit()
                    deleted.add(id_)

    async with asyncio.timeout(30):
        await asyncio.gather(*(step(id_) for id_ in ids for step in (read, delete, delete, read)))
        for id_ in ids:
            await delete(id_)
        await asyncio.gather(*map(read, ids))
    assert deleted == set(ids)
    assert await values(engine, "SELECT id FROM accounts") == []
    assert await values(engine, "SELECT id FROM crossfeed.dead_letter") == []


async def test_a_changed_partition_key_does_not_replace_what_has_it_already(app: App) -> None:
    await app.foreign(PENDING_SIGNUPS, {"id": "s", "email": "taken@x.org", "Code": "1"})
    async with app.unit() as work:
        await work[PendingSignup].add(PendingSignup(id="s", email="mine@x.org", code="2"))
        await work.commit()
    async with app.unit() as work:
        signup = await work[PendingSignup].get_by_id("s", partition_key="mine@x.org")
        assert signup is not None
        signup.email = "taken@x.org"
        with pytest.raises(AlreadyExistsError):
            await work[PendingSignup].update(signup)
    async with app.unit() as work:
        assert {signup.code for signup in await work[PendingSignup].list()} == {"1", "2"}


async def test_an_event_of_an_aggregate_that_was_left_behind_is_recorded(app: App, engine: AsyncEngine) -> None:
    await app.foreign(ACCOUNTS, {"id": "left", "Email": "one@x.org"})
    happened = AccountRegistered(email="one@x.org", display_name="")
    async with app.unit() as work:
        work.record(happened, of=ACCOUNTS.identity_of("left", "left"))
        await work.commit()
    assert await values(engine, "SELECT id FROM crossfeed.outbox WHERE event_id IS NOT NULL") == ["left"]
