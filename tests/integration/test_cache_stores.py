"""The cache behind Crossfeed's front door: on both stores, with foreign writers, and with commits that end badly."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from core import Crossfeed, UnitOfWork
from core.cache.client import open_cache
from core.cosmos.documents import CosmosDocuments
from core.domain.account import Account, Accounts
from core.domain.events import AccountRegistered
from core.domain.mappings import ACCOUNTS
from core.entity import loaded
from core.errors import ConfigurationError, OutcomeUnknownError
from core.events import events_of
from core.settings import Settings
from tests.integration.cache_steps import account, identity_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.stamp import Stamp
    from tests.integration.cache_steps import Client


@pytest.fixture
def cached(settings: Settings, valkey: EmbeddedValkey) -> Settings:
    return settings.model_copy(update={"cache_url": SecretStr(valkey.url), "cache_timeout_ms": 5000})


@asynccontextmanager
async def two(settings: Settings, mappings: Mappings) -> AsyncIterator[tuple[Crossfeed, Crossfeed]]:
    async with Crossfeed.open(settings, mappings) as one, Crossfeed.open(settings, mappings) as other:
        yield one, other


async def get(db: Crossfeed, id_: str = "a") -> Account | None:
    async with db.unit_of_work() as work:
        found = await work[Account].get_by_id(id_)
    assert db._cache is not None
    await db._cache.reader.close()
    return found


async def renamed(db: Crossfeed, name: str, id_: str = "a") -> None:
    async def rename(work: UnitOfWork) -> None:
        found = await work[Account].get_by_id(id_)
        assert found is not None
        found.display_name = name
        await work[Account].update(found)
        await work.commit()

    await db.transact(rename)


async def added(db: Crossfeed, *accounts: Account) -> None:
    async with db.unit_of_work() as work:
        for one in accounts:
            await work[Account].add(one)
        await work.commit()


def stamp_of(entity: Account | None) -> Stamp:
    state = None if entity is None else loaded(entity)
    assert state is not None
    return state.stamp


async def test_in_cosmos_db_too_one_load_serves_all_and_what_is_served_can_be_written(
    cached: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    async with two(cached, mappings) as (one, other):
        await added(one, account("a", "Ann"))
        await get(one)
        await renamed(other, "Anna")
        assert other.cache is not None
        assert other.cache.hits == 1
        found = await get(one)
        assert found is not None
        assert found.display_name == "Anna"
        assert stamp_of(found) == (1, 2)


async def test_events_that_a_document_carries_survive_an_update_of_what_the_cache_served(
    cached: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    async with two(cached, mappings) as (one, other):
        async with one.unit_of_work() as work:
            ann = account("a", "Ann")
            await work[Account].add(ann)
            work.record(AccountRegistered(email="ann@example.org", display_name="Ann"), of=ann)
            await work.commit()
        await get(one)
        await renamed(other, "Anna")
        assert other.cache is not None
        assert other.cache.hits == 1
    document = await CosmosDocuments(cosmos, mappings).read(identity_of("a"))
    assert document is not None
    assert len(events_of(document, identity_of("a"))) == 1


async def test_who_records_an_event_in_a_document_takes_its_entry_away(
    cached: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    async with two(cached, mappings) as (one, other):
        await added(one, account("a", "Ann"))
        await get(one)
        async with other.unit_of_work() as work:
            work.record(AccountRegistered(email="ann@example.org", display_name="Ann"), of=identity_of("a"))
            await work.commit()
        found = await get(one)
        assert one.cache is not None
        assert one.cache.hits == 0
        assert stamp_of(found) == (1, 2)


@pytest.mark.parametrize("keeps_envelope", [True, False])
async def test_the_document_of_a_foreign_writer_is_not_kept(
    cached: Settings, cosmos: CosmosStore, mappings: Mappings, keeps_envelope: bool
) -> None:
    async with two(cached, mappings) as (one, other):
        await added(one, account("a", "Ann"))
        container = cosmos.container(ACCOUNTS)
        document = {**await container.read_item("a", partition_key="a"), "DisplayName": "Anna"}
        if not keeps_envelope:
            del document["crossfeed"]
        await container.upsert_item(document)
        for db in (one, one, other):
            found = await get(db)
            assert found is not None
            assert found.display_name == "Anna"
        for db in (one, other):
            assert db.cache is not None
            assert (db.cache.hits, db.cache.fills) == (0, 0)


async def test_who_writes_after_a_foreign_writer_takes_away_what_had_a_later_stamp(
    cached: Settings, cosmos: CosmosStore, mappings: Mappings
) -> None:
    async with two(cached, mappings) as (one, other):
        await added(one, account("a", "Ann"))
        for name in ("Anna", "Hannah"):
            await renamed(one, name)
        assert stamp_of(await get(other)) == (1, 3)
        await cosmos.container(ACCOUNTS).delete_item("a", partition_key="a")  # the cache knows nothing of it
        await added(one, account("a", "Another"))
        found = await get(other)
        assert found is not None
        assert (found.display_name, stamp_of(found)) == ("Another", (1, 1))


async def test_transact_meets_a_stale_entry_once(cached: Settings, opened: AsyncEngine, mappings: Mappings) -> None:
    async with two(cached, mappings) as (one, other):
        await added(one, account("a", "Ann", email="x@example.org"))
        await get(other)
        async with opened.begin() as connection:  # and no relay tells of it
            await connection.execute(text("UPDATE accounts SET role = 'Admin'"))
        await renamed(other, "Anna")
        found = await get(one)
        assert found is not None
        assert (found.display_name, found.role) == ("Anna", "Admin")
        async with other.unit_of_work() as work:
            assert await work.of(Accounts).exists_by_email("X@example.org")


async def _lost_answer(work: Any) -> None:
    await work.commit()
    raise OutcomeUnknownError


async def _cancelled(work: Any) -> None:
    await work.commit()
    raise asyncio.CancelledError


@pytest.mark.parametrize("commit", [_lost_answer, _cancelled])
async def test_what_may_have_been_written_is_taken_out(
    clients: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch, commit: Callable[[Any], Awaitable[None]]
) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    await other.get("a")
    async with one.work() as work:
        found = await work[Account].get_by_id("a")
        assert found is not None
        found.display_name = "new"
        await work[Account].update(found)
        monkeypatch.setattr(work, "_work", _Committing(work._work, commit))
        with pytest.raises((OutcomeUnknownError, asyncio.CancelledError)):
            await work.commit()
    assert await other.name_of("a") == "new"
    assert await one.name_of("a") == "new"


async def test_what_is_committed_by_way_of_the_connection_is_taken_out(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    await other.get("a")
    async with one.work() as work:
        found = await work[Account].get_by_id("a")
        assert found is not None
        found.display_name = "new"
        await work[Account].update(found)
        await work.connection.commit()
    assert await other.name_of("a") == "new"


class _Committing:
    """A unit of work whose commit ends otherwise."""

    def __init__(self, work: Any, commit: Callable[[Any], Awaitable[None]]) -> None:
        self._work = work
        self._commit = commit

    async def commit(self) -> None:
        await self._commit(self._work)


async def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, mappings: Mappings) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "core.cache.link", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'crossfeed\[cache\]'"):
        async with open_cache(Settings.load(cache_url="redis://localhost"), mappings):
            pass
