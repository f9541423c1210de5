"""The relay goes on by itself when its Postgres is restarted, crashes, or is another of several hosts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from core.domain.account import Account
from core.errors import ConfigurationError
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import read_phase
from outbox.relay import Relay, open_relay
from tests.chaos.postgres_machine import PostgresMachine, postgres_machine
from tests.integration.relay_steps import MemorySink, differences, letters, make_primary, until
from tests.stores import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.stores import PostgresServer


@pytest.fixture(scope="module")
async def machine() -> AsyncIterator[PostgresMachine]:
    async with postgres_machine() as running:
        yield running


@pytest.fixture
def alone(settings: Settings, machine: PostgresMachine) -> Settings:
    return settings.model_copy(update={"postgres_dsn": SecretStr(machine.dsn), "relay_lease_s": 1.0})


async def test_a_restart_a_crash_and_cut_connections_are_waited_for(
    alone: Settings, machine: PostgresMachine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    accounts = mappings.of(Account)
    stop = asyncio.Event()
    async with open_engine(alone) as engine:
        await make_primary(engine)
        relay = open_relay(alone, mappings, engine, cosmos)
        running = asyncio.ensure_future(relay.run(stop))
        troubles: tuple[Callable[[], Awaitable[object]], ...] = (machine.restart, machine.crash, machine.cut)
        for number, trouble in enumerate(troubles):
            await _insert(machine, f"before-{number}")
            await trouble()
            await _insert(machine, f"after-{number}")
        await until(lambda: relay.stats.published >= 6)
        stop.set()
        await running
        ids = [f"{when}-{number}" for when in ("before", "after") for number in range(3)]
        assert await differences(engine, cosmos, accounts, [accounts.identity_of(id_, id_) for id_ in ids]) == []
        assert await letters(engine) == []


async def test_transaction_ids_that_a_crash_gives_out_again_are_not_taken_for_those_of_before(
    alone: Settings, machine: PostgresMachine, mappings: Mappings
) -> None:
    """A session that is killed ends all others and the memory of the server, but not the server's own process."""
    # A heartbeat would write what is to be forgotten; and it is the first poll afterwards that counts.
    slow = {"relay_lease_s": 60.0, "relay_poll_min_ms": 1200, "relay_poll_max_ms": 1200}
    stop = asyncio.Event()
    sink = MemorySink()
    async with open_engine(alone) as engine:
        async with engine.connect() as connection:
            if (await read_phase(connection)).phase is Phase.COSMOS_ONLY:
                await make_primary(engine)
        relay = Relay(alone.model_copy(update=slow), mappings, engine, sink)
        await relay.drain()
        sink.states.clear()
        running = asyncio.ensure_future(relay.run(stop))
        async with await machine.connect() as session:
            await session.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            await session.execute("SELECT pg_reload_conf()")
            await session.execute("CHECKPOINT")
            for _ in range(300):
                await session.execute("BEGIN; SELECT pg_current_xact_id(); ROLLBACK")
            gone = await _next_id(session)
        polls = relay.stats.passes
        await until(lambda: relay.stats.passes > polls + 1)
        await machine.kill_a_session()
        async with await machine.connect() as session:
            assert await _next_id(session) + 100 < gone
            for number in range(10):
                await session.execute("INSERT INTO accounts (id) VALUES (%s)", [f"after-the-crash-{number}"])
        await until(lambda: len(sink.states) == 10)
        stop.set()
        await running


async def _next_id(session: psycopg.AsyncConnection[Any]) -> int:
    rows = await session.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    return int((await rows.fetchone() or ("0",))[0])


async def _insert(machine: PostgresMachine, id_: str) -> None:
    async with await machine.connect() as session:
        await session.execute("INSERT INTO accounts (id) VALUES (%s)", [id_])


@pytest.fixture
async def read_only(machine: PostgresMachine, postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URI of a database on another server that refuses writes, as a standby does, of the same name."""
    name = urlsplit(machine.dsn).path[1:]
    dsn = await postgres_server.create_database(name)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session:
        await session.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
    yield dsn
    await postgres_server.drop_database(name)


async def test_of_several_hosts_the_one_that_takes_writes_is_used(
    alone: Settings, machine: PostgresMachine, read_only: str, tmp_path: Path
) -> None:
    writable, standby = urlsplit(machine.dsn), urlsplit(read_only)
    passwords = tmp_path / "pgpass"
    passwords.write_text("".join(f"*:{uri.port}:*:*:{uri.password}\n" for uri in (writable, standby)))
    passwords.chmod(0o600)
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{standby.port},127.0.0.1:{writable.port}"
    dsn = f"postgresql://postgres@{hosts}{writable.path}?passfile={passwords}"
    async with open_engine(alone.model_copy(update={"postgres_dsn": SecretStr(dsn)})) as engine, engine.connect() as c:
        assert (await c.exec_driver_sql("SHOW port")).scalar_one() == str(writable.port)


async def test_a_server_that_takes_no_writes_is_refused_at_the_start(alone: Settings, read_only: str) -> None:
    with pytest.raises(ConfigurationError, match="session is read-only"):
        async with open_engine(alone.model_copy(update={"postgres_dsn": SecretStr(read_only)})):
            pass


async def test_a_server_that_vanishes_is_given_up_after_a_minute(alone: Settings) -> None:
    async with open_engine(alone) as engine, engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        parameters = driver.info.get_parameters()
        idle, interval, times = (int(parameters[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
        assert idle + interval * times <= 60
        assert int(parameters["tcp_user_timeout"]) <= 60_000
