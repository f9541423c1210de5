"""Clients of one installation that read through the cache, and what goes wrong between them and Redis."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from core.cache.client import Cache, open_cache
from core.cache.unit_of_work import CachedUnitOfWork
from core.domain.account import Account, Accounts
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.identity import Identity
from core.mappings import Mappings
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.unit_of_work import PostgresUnitOfWork
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cache.call import Call
    from core.local.valkey import EmbeddedValkey
    from core.repository import Repository

T = TypeVar("T")
POSTGRES_ONLY = PhaseRow(Phase.POSTGRES_ONLY, 1, PhaseState.STEADY)


def identity_of(id_: str) -> Identity:
    return Identity.of("Account", [id_], id_)


def account(id_: str, name: str = "", email: str = "", auth: str = "") -> Account:
    return Account(id=id_, display_name=name, email=email or f"{id_}@example.org", auth0_user_id=auth)


class Held:
    """Holds back what a load has read from the store, until `let_go`."""

    def __init__(self) -> None:
        self.has_read = asyncio.Event()
        self.let_go = asyncio.Event()

    async def hold(self) -> None:
        self.has_read.set()
        await self.let_go.wait()


class _HeldUnit:
    """A unit of work whose reads by id and by query are held, and counted."""

    def __init__(self, work: PostgresUnitOfWork, client: Client, held: Held | None) -> None:
        self._work = work
        self._client = client
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def __getitem__(self, model: type[Account]) -> Any:
        return _HeldRepository(self._work[model], self._client, self._held)


class _HeldRepository:
    def __init__(self, store: Repository[Account], client: Client, held: Held | None) -> None:
        self._store = store
        self._client = client
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_by_id(self, id_: str, **key: Any) -> Account | None:
        return await self._held_back(await self._store.get_by_id(id_, **key))

    async def list(self, query: Any) -> list[Account]:
        return await self._held_back(await self._store.list(query))

    async def _held_back(self, found: T) -> T:
        self._client.loads += 1
        if self._held is not None:
            await self._held.hold()
        return found


class Losing:
    """Between a client and Redis: while `is_lost`, nothing that the cache is told arrives. Counts what it is asked."""

    def __init__(self, caller: Any) -> None:
        self._caller = caller
        self.is_lost = False
        self.asked = 0

    async def one(self, call: Call) -> Any:
        self.asked += 1
        return await self._caller.one(call)

    async def many(self, calls: Sequence[Call]) -> list[Any] | None:
        return [0] * len(calls) if self.is_lost else await self._caller.many(calls)


class Client:
    """An application's process, as far as the cache is concerned. `loads` counts what the store was asked."""

    def __init__(self, engine: AsyncEngine, cache: Cache) -> None:
        self.engine = engine
        self.cache = cache
        self.losing = Losing(cache.entries._caller)
        cache.entries._caller = self.losing
        self.phase = POSTGRES_ONLY
        self.loads = 0

    @asynccontextmanager
    async def work(self, held: Held | None = None) -> AsyncIterator[CachedUnitOfWork]:
        async with PostgresUnitOfWork(self.engine, self.cache.mappings) as work:
            unit: Any = _HeldUnit(work, self, held)
            async with CachedUnitOfWork(unit, self.cache, self.phase) as cached:
                yield cached

    async def get(self, id_: str, held: Held | None = None) -> Account | None:
        async with self.work(held) as work:
            found = await work[Account].get_by_id(id_)
        await self.landed()
        return found

    async def name_of(self, id_: str) -> str | None:
        found = await self.get(id_)
        return None if found is None else found.display_name

    async def by_email(self, email: str, held: Held | None = None) -> Account | None:
        async with self.work(held) as work:
            found = await work.of(Accounts).get_by_email(email)
        await self.landed()
        return found

    async def landed(self) -> None:
        """Wait until what was loaded is in the cache."""
        await self.cache.reader.close()

    async def add(self, *accounts: Account) -> None:
        async with self.work() as work:
            for one in accounts:
                await work[Account].add(one)
            await work.commit()

    async def change(self, id_: str, **fields: str) -> Account:
        """Update an account as it is in the store."""
        async with PostgresUnitOfWork(self.engine, self.cache.mappings) as reading:
            found = await reading[Account].get_by_id(id_)
        assert found is not None
        async with self.work() as work:
            for field, value in fields.items():
                setattr(found, field, value)
            await work[Account].update(found)
            await work.commit()
        return found

    async def delete(self, id_: str) -> None:
        async with PostgresUnitOfWork(self.engine, self.cache.mappings) as reading:
            found = await reading[Account].get_by_id(id_)
        assert found is not None
        async with self.work() as work:
            await work[Account].delete(found)
            await work.commit()

    @asynccontextmanager
    async def losing_what_it_tells(self) -> AsyncIterator[None]:
        self.losing.is_lost = True
        try:
            yield
        finally:
            self.losing.is_lost = False

    @property
    def hits(self) -> int:
        return self.cache.stats.hits

    def key(self, id_: str) -> str:
        return self.cache.entries.key(identity_of(id_))

    def email_key(self, email: str) -> str:
        return self.cache.entries.lookup_key("Account", ACCOUNTS.lookups[0], email)


@asynccontextmanager
async def open_client(engine: AsyncEngine, valkey: EmbeddedValkey, **settings: Any) -> AsyncIterator[Client]:
    """Open a client whose patience with Redis is that of a busy machine."""
    given: dict[str, Any] = {"cache_timeout_ms": 5000, "cache_url": valkey.url} | settings
    async with open_cache(Settings.load(**given), Mappings(MAPPINGS)) as cache:
        assert cache is not None
        yield Client(engine, cache)
