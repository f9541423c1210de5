"""A commit whose answer was lost: Postgres is asked what became of it, and nothing is repeated in silence."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from core.domain.account import Account
from core.entity import loaded
from core.errors import CrossfeedError, OutcomeUnknownError, StoreUnavailableError
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings


class CuttingProxy:
    """A TCP proxy in front of Postgres that can cut a connection at the moment a COMMIT passes through it."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.cut: str = "never"
        self.refuse = False
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[CuttingProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(*self._to)
        answering = asyncio.create_task(self._copy(there_reader, writer))
        try:
            while data := await reader.read(65536):
                cut = self.cut if b"COMMIT\0" in data else "never"
                if cut != "never":
                    self.cut = "never"  # one connection, one time
                if cut == "before":
                    break
                there_writer.write(data)
                await there_writer.drain()
                if cut == "after":
                    answering.cancel()  # the answer never arrives
                    await asyncio.sleep(0.2)
                    break
        finally:
            answering.cancel()
            writer.transport.abort()
            there_writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def proxy(settings: Settings, engine: AsyncEngine) -> AsyncIterator[CuttingProxy]:
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    address = urlsplit(settings.require_postgres())
    assert address.hostname is not None
    assert address.port is not None
    async with CuttingProxy(address.hostname, address.port).listening() as listening:
        yield listening


@pytest.fixture
async def through_proxy(settings: Settings, proxy: CuttingProxy) -> AsyncIterator[AsyncEngine]:
    address = urlsplit(settings.require_postgres())
    dsn = address._replace(netloc=f"{address.username}:{address.password}@127.0.0.1:{proxy.port}").geturl()
    async with open_engine(settings.model_copy(update={"postgres_dsn": type(settings.postgres_dsn)(dsn)})) as opened:  # type: ignore[misc]
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
