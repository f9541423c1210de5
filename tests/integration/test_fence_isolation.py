"""Nothing gets past the fence of a drain, whatever a session has begun before; and what was written is captured."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from core.domain.account import Account
from core.errors import PrimaryMovedError
from core.postgres.switching import cancel_switch, flip
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.event_steps import Said
from tests.integration.relay_steps import connect, logged, run, until
from tests.integration.switching_steps import COSMOS, POSTGRES, drain, nothing, start_in
from tests.integration.test_g1_fence import WRITES, refused

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


async def refused_within(psql: psycopg.AsyncConnection[Any], statement: str) -> str | None:
    """The SQLSTATE with which a statement of an open transaction was refused; the transaction goes on."""
    await psql.execute("SAVEPOINT before")
    found = await refused(psql, statement)
    await psql.execute("ROLLBACK TO before")
    return found


@pytest.mark.parametrize("level", LEVELS)
async def test_a_transaction_that_is_open_across_the_switch_writes_nothing_any_more(
    engine: AsyncEngine, settings: Settings, level: str
) -> None:
    await start_in(engine, POSTGRES)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    async with await connect(settings) as early:
        await early.execute(f"BEGIN ISOLATION LEVEL {level}")
        await early.execute("DECLARE rows CURSOR FOR SELECT * FROM accounts FOR UPDATE")
        await early.execute("FETCH 1 FROM rows")
        await early.execute("SAVEPOINT tried")
        await early.execute("UPDATE accounts SET email = 'rolled back'")
        await early.execute("ROLLBACK TO tried")
        switch = await drain(engine, COSMOS)
        for is_flipped in (False, True):
            if is_flipped:
                await flip(engine, switch.id, nothing)
            for statement in (*WRITES, "UPDATE accounts SET email = 'x' WHERE CURRENT OF rows"):
                if statement.startswith("MERGE") and early.info.server_version < 150000:
                    continue
                assert await refused_within(early, statement) == "CF001", statement
            assert await (await early.execute("SELECT count(*) FROM accounts")).fetchone() == (1,), "reads go on"
        await early.execute("CLOSE rows")
        assert await refused_within(early, "TRUNCATE accounts") == "CF002"
        await early.execute("COMMIT")
    assert [row.version for row in await logged(engine)] == [1]


@pytest.mark.parametrize("level", LEVELS)
async def test_what_was_prepared_before_the_drain_is_refused(
    engine: AsyncEngine, settings: Settings, level: str
) -> None:
    await start_in(engine, POSTGRES)
    await run(
        engine,
        "INSERT INTO accounts (id) VALUES ('a')",
        "CREATE FUNCTION rename() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE accounts SET email = 'f'; END $$",
        "CREATE TABLE teams (id text PRIMARY KEY)",
        "INSERT INTO teams VALUES ('a'), ('t')",
        "ALTER TABLE accounts ADD CONSTRAINT of_team FOREIGN KEY (id) REFERENCES teams ON DELETE CASCADE"
        " ON UPDATE CASCADE",
    )
    async with await connect(settings) as psql:
        await psql.execute(f"SET default_transaction_isolation = '{level.lower()}'")
        await psql.execute("SET plan_cache_mode = force_generic_plan")
        put = "UPDATE accounts SET email = %s"
        for turn in range(2):
            await psql.execute(put, (str(turn),), prepare=True)
            await psql.execute("SELECT rename()")
        await psql.execute("PREPARE put AS INSERT INTO accounts (id) VALUES ('t')")
        before = await logged(engine)
        await drain(engine, COSMOS)
        with pytest.raises(psycopg.Error) as protocol:
            await psql.execute(put, ("x",), prepare=True)
        assert protocol.value.sqlstate == "CF001"
        for statement in (
            "EXECUTE put",
            "SELECT rename()",
            "DELETE FROM teams WHERE id = 'a'",
            "UPDATE teams SET id = 'b' WHERE id = 'a'",
        ):
            assert await refused(psql, statement) == "CF001", statement
    assert await logged(engine) == before


@pytest.mark.parametrize("level", LEVELS)
async def test_a_statement_in_flight_is_waited_for_and_captured(
    engine: AsyncEngine, settings: Settings, level: str
) -> None:
    await start_in(engine, POSTGRES)
    async with await connect(settings) as psql:
        await psql.execute(f"SET default_transaction_isolation = '{level.lower()}'")
        writing = asyncio.create_task(
            psql.execute("INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, 3) n, pg_sleep(0.3)")
        )
        await asyncio.sleep(0.1)
        await drain(engine, COSMOS)
        assert writing.done() or len(await logged(engine)) == 3
        await writing
    assert sorted(row.id for row in await logged(engine)) == ["a1", "a2", "a3"]


async def test_a_unit_of_work_open_across_the_drain_is_refused_with_its_events(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    await start_in(engine, POSTGRES)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    async with PostgresUnitOfWork(engine, mappings) as reading, PostgresUnitOfWork(engine, mappings) as saying:
        account = await reading[Account].get_by_id("a")
        said_of = await saying[Account].get_by_id("a")
        assert account is not None
        assert said_of is not None
        saying.record(Said(number=1), of=said_of)
        await drain(engine, COSMOS)
        with pytest.raises(PrimaryMovedError):
            await reading[Account].delete(account)
        with pytest.raises(PrimaryMovedError):
            await saying.commit()
    assert len(await logged(engine)) == 1


async def test_the_tables_below_an_aggregate_are_fenced_with_it(shop: AsyncEngine, settings: Settings) -> None:
    before = await logged(shop)
    await drain(shop, COSMOS)
    async with await connect(settings) as psql:
        for statement in ("DELETE FROM order_lines", "UPDATE order_lines SET item = 'x'", "DELETE FROM stock"):
            assert await refused(psql, statement) == "CF001", statement
    assert await logged(shop) == before


async def test_every_write_that_is_committed_between_fences_is_captured_and_none_within(
    engine: AsyncEngine, settings: Settings
) -> None:
    await start_in(engine, POSTGRES)
    stop = asyncio.Event()
    committed = [0] * 6
    states = set()

    async def write(number: int) -> None:
        async with await connect(settings) as psql:
            await psql.execute(f"SET default_transaction_isolation = '{LEVELS[number % 3].lower()}'")
            while not stop.is_set():
                try:
                    async with psql.transaction():
                        await psql.execute("SELECT count(*) FROM accounts")
                        await psql.execute(
                            "INSERT INTO accounts (id) VALUES (%s) ON CONFLICT (id) DO UPDATE SET email = 'x'",
                            (f"w{number}",),
                            prepare=True,
                        )
                    committed[number] += 1
                except psycopg.Error as error:
                    states.add(error.sqlstate)
                    await asyncio.sleep(0.002)

    def all_beyond(number: int) -> bool:
        return min(committed) > number

    async def fence() -> None:
        for _ in range(12):
            await until(partial(all_beyond, min(committed)))
            switch = await drain(engine, COSMOS)
            before = len(await logged(engine))
            await asyncio.sleep(0.003)
            assert len(await logged(engine)) == before, "somebody wrote during a drain"
            await cancel_switch(engine, switch.id, why="test")

    async with asyncio.TaskGroup() as group:
        for number in range(len(committed)):
            group.create_task(write(number))
        await group.create_task(fence())
        stop.set()
    written = await logged(engine)
    assert [sum(row.id == f"w{number}" for row in written) for number in range(len(committed))] == committed
    assert "CF001" in states <= {"CF001", "40001", "40P01"}
