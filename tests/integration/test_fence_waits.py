"""What keeps a drain from its locks is named: process or prepared transaction, age, query; and autovacuum gives way."""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from core.errors import ConflictError
from core.phases import PhaseRow, PhaseState
from core.postgres.engine import open_engine
from core.postgres.phases import lock_holders
from core.postgres.switching import cancel_switch, flip
from tests.integration.relay_steps import connect, logged, run, until
from tests.integration.switching_steps import COSMOS, POSTGRES, drain, nothing, recorded, start_in, triggers
from tests.integration.test_g1_fence import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings


@pytest.fixture
async def hasty(engine: AsyncEngine) -> AsyncEngine:
    """The test's database, where nobody waits for a lock as long as usual: a seventh of a second."""
    async with engine.begin() as connection:
        name = (await connection.exec_driver_sql("SELECT current_database()")).scalar_one()
        await connection.exec_driver_sql(f"ALTER DATABASE {name} SET deadlock_timeout = 100")
    await engine.dispose()  # for sessions that know of it
    return engine


@asynccontextmanager
async def open_transaction(settings: Settings, *statements: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Somebody who has written, or locked, and does not end."""
    async with await connect(settings) as psql:
        await psql.execute("BEGIN")
        for statement in statements:
            await psql.execute(statement)
        yield psql


async def test_a_writer_that_does_not_end_is_named_and_the_drain_changes_nothing(
    engine: AsyncEngine, settings: Settings
) -> None:
    await start_in(engine, POSTGRES)
    before = (await recorded(engine), await triggers(engine))
    insert = "INSERT INTO accounts (id, email) VALUES ('a', 'me@example.org')"
    async with open_transaction(settings, insert) as psql:
        named = rf"process {psql.info.backend_pid}, [1-9]\d* s old, idle in transaction: INSERT INTO accounts"
        with pytest.raises(ConflictError, match=named) as found:
            await drain(engine, COSMOS, patience=0)
        assert "example" not in str(found.value)
        async with open_transaction(settings, "LOCK TABLE accounts IN ROW EXCLUSIVE MODE"):
            assert "ROW EXCLUSIVE" not in await lock_holders(engine), "it came just now: nobody has waited for it"
        assert (await recorded(engine), await triggers(engine)) == before
        await psql.execute("COMMIT")
    switch = await drain(engine, COSMOS)
    assert [row.id for row in await logged(engine)] == ["a"]
    await cancel_switch(engine, switch.id, why="test")


async def test_a_prepared_transaction_is_named_and_captured_when_it_is_committed(
    hasty: AsyncEngine, settings: Settings
) -> None:
    await start_in(hasty, POSTGRES)
    async with open_transaction(settings, "INSERT INTO accounts (id) VALUES ('a')") as psql:
        await psql.execute("PREPARE TRANSACTION 'two-phase'")
        try:
            with pytest.raises(ConflictError, match=r"prepared transaction two-phase, \d+ s old, prepared"):
                await drain(hasty, COSMOS, patience=0)
            draining = asyncio.create_task(drain(hasty, COSMOS))
            await asyncio.sleep(0.2)
            assert not draining.done()
        finally:
            await psql.execute("COMMIT PREPARED 'two-phase'")
        await draining
    assert [row.id for row in await logged(hasty)] == ["a"]


async def test_whoever_holds_what_a_drain_needs_is_named(hasty: AsyncEngine, settings: Settings) -> None:
    await start_in(hasty, POSTGRES)
    statements = [
        "LOCK TABLE user_profiles IN SHARE UPDATE EXCLUSIVE MODE",  # as VACUUM or CREATE INDEX CONCURRENTLY do
        "SELECT FROM crossfeed.phase FOR SHARE",  # a migration that installs capture
        "LOCK TABLE crossfeed.outbox IN ROW EXCLUSIVE MODE",  # who records an event
    ]
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(open_transaction(settings, each)) for each in statements]
        with pytest.raises(ConflictError) as found:
            await drain(hasty, COSMOS, patience=0)
        for psql, statement in zip(sessions, statements, strict=True):
            named = rf"process {psql.info.backend_pid}, \d+ s old, idle in transaction: {statement}"
            assert re.search(named, str(found.value))


async def test_who_is_not_shown_what_others_do_is_told_their_process_ids_at_least(
    engine: AsyncEngine, settings: Settings
) -> None:
    role = f"sees_little_{uuid.uuid4().hex}"
    grants = [f"GRANT USAGE ON SCHEMA crossfeed TO {role}", f"GRANT SELECT ON crossfeed.captured TO {role}"]
    await run(engine, f"CREATE ROLE {role}", *grants)
    dsn = SecretStr(f"{settings.require_postgres()}?options=-c%20role%3D{role}")
    try:
        async with (
            open_engine(settings.model_copy(update={"postgres_dsn": dsn})) as limited,
            open_transaction(settings, "LOCK TABLE accounts IN SHARE MODE") as psql,
        ):
            named = await lock_holders(limited)
            assert f"process {psql.info.backend_pid}, of an age that is hidden, state hidden: <insufficient" in named
    finally:
        await run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_who_waits_in_line_before_the_drain_is_named(hasty: AsyncEngine, settings: Settings) -> None:
    await start_in(hasty, POSTGRES)
    async with open_transaction(settings, "SELECT * FROM accounts"), await connect(settings) as altering:
        waiting = asyncio.create_task(altering.execute("ALTER TABLE accounts ADD COLUMN more text"))
        await asyncio.sleep(0.2)
        named = f"process {altering.info.backend_pid}, .*waiting for its lock: ALTER TABLE"
        with pytest.raises(ConflictError, match=named):
            await drain(hasty, COSMOS, patience=0)
        await altering.cancel_safe()
        with pytest.raises(Exception, match="cancel"):
            await waiting


async def test_what_keeps_a_flip_from_its_locks_is_named_and_the_switch_drains_as_before(
    hasty: AsyncEngine, settings: Settings
) -> None:
    await start_in(hasty, COSMOS)
    switch = await drain(hasty, POSTGRES)
    async with open_transaction(settings, "SET LOCAL crossfeed.mirroring = 'on'", "DELETE FROM accounts") as mirror:
        with pytest.raises(ConflictError, match=f"process {mirror.info.backend_pid}"):
            await flip(hasty, switch.id, nothing, patience=0)
    assert await recorded(hasty) == (PhaseRow(COSMOS, 2, PhaseState.DRAINING), switch)
    assert await flip(hasty, switch.id, nothing) == PhaseRow(POSTGRES, 3, PhaseState.STEADY)


async def test_reads_row_locks_and_a_vacuum_of_the_logs_partitions_do_not_hold_a_drain_up(
    hasty: AsyncEngine, settings: Settings
) -> None:
    await start_in(hasty, POSTGRES)
    await run(hasty, "INSERT INTO accounts (id) VALUES ('a')")
    async with (
        open_transaction(settings, "SELECT * FROM accounts", "SELECT * FROM crossfeed.outbox"),
        open_transaction(settings, "SELECT * FROM accounts FOR UPDATE") as locking,
        open_transaction(settings, "LOCK TABLE crossfeed.outbox_default IN SHARE UPDATE EXCLUSIVE MODE"),
    ):
        async with asyncio.timeout(1):
            await drain(hasty, COSMOS)
        assert await refused(locking, "UPDATE accounts SET email = 'x'") == "CF001"


async def test_a_deadlock_with_a_writer_is_no_end_of_the_drain(hasty: AsyncEngine, settings: Settings) -> None:
    await start_in(hasty, POSTGRES)
    patient = "SET LOCAL deadlock_timeout = '5s'"  # so that it is the drain that is told of it
    async with (
        open_transaction(settings, patient, "INSERT INTO user_profiles (id) VALUES ('a')") as psql,
        await connect(settings) as looking,
    ):

        async def waits() -> bool:
            found = await looking.execute(
                "SELECT FROM pg_locks WHERE relation = 'user_profiles'::regclass AND NOT granted"
            )
            return found.rowcount > 0

        draining = asyncio.create_task(drain(hasty, COSMOS))
        await until(waits)
        await psql.execute("INSERT INTO accounts (id) VALUES ('a')")
        await psql.execute("COMMIT")
        await draining
    assert [row.id for row in await logged(hasty)] == ["a", "a"]


async def test_an_autovacuum_at_work_gives_way(hasty: AsyncEngine, settings: Settings) -> None:
    await start_in(hasty, POSTGRES)
    at_work = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query ~ 'accounts'"
    async with await connect(settings) as psql:
        await psql.execute("INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, 5000) n")
        await psql.execute("DELETE FROM accounts")
        await psql.execute(
            "ALTER TABLE accounts SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_cost_delay = 100,"
            " autovacuum_vacuum_cost_limit = 1)"
        )
        await psql.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        await psql.execute("SELECT pg_reload_conf()")
        try:

            async def is_at_work() -> bool:
                return await (await psql.execute(at_work)).fetchone() == (1,)

            await until(is_at_work)
            await drain(hasty, COSMOS, patience=5)
        finally:
            await psql.execute("ALTER SYSTEM RESET autovacuum_naptime")
            await psql.execute("SELECT pg_reload_conf()")
