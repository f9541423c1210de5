"""Statements that travel together: all of a step takes effect or nothing, and what went before it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import DBAPIError

from core.domain.awkward import NAMES
from core.domain.mappings import ACCOUNTS
from core.postgres.engine import fetch
from core.postgres.failures import driver_error, is_documents_fault
from core.postgres.held import read_held, read_records, stamps_query
from core.postgres.names import number_array, text_array
from core.postgres.pipeline import savepoint
from tests.integration.relay_steps import make_primary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

INSERT = "INSERT INTO numbers VALUES (%(n)s)"


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as opened:
        await opened.exec_driver_sql("CREATE TEMPORARY TABLE numbers (n int PRIMARY KEY) ON COMMIT DROP")
        yield opened


async def numbers(connection: AsyncConnection) -> list[int]:
    return [row[0] for row in await fetch(connection, "SELECT n FROM numbers ORDER BY n", {})]


async def inserted(connection: AsyncConnection, *numbers: int, first: int = 0, then: Exception | None = None) -> None:
    async with savepoint(connection, first=[(INSERT, {"n": first})] if first else []) as pipeline:
        for number in numbers:
            await pipeline.exec_driver_sql(INSERT, {"n": number})
        if then is not None:
            raise then


async def test_what_postgres_refuses_undoes_the_step_and_nothing_before_it(connection: AsyncConnection) -> None:
    await inserted(connection, 2, first=1)
    with pytest.raises(DBAPIError) as refused:
        await inserted(connection, 4, 4, 5, first=3)
    assert is_documents_fault(refused.value)
    assert await numbers(connection) == [1, 2, 3]


async def test_what_is_raised_inside_undoes_the_step(connection: AsyncConnection) -> None:
    with pytest.raises(ZeroDivisionError):
        await inserted(connection, 1, then=ZeroDivisionError())
    assert await numbers(connection) == []


async def test_what_is_refused_last_undoes_the_step(connection: AsyncConnection) -> None:
    with pytest.raises(DBAPIError):
        async with savepoint(connection, last=[("SELECT 1 / 0",)]) as pipeline:
            await pipeline.exec_driver_sql(INSERT, {"n": 1})
    assert await numbers(connection) == []


async def test_what_fails_before_the_step_says_so_itself(connection: AsyncConnection) -> None:
    with pytest.raises(DBAPIError) as refused:
        async with savepoint(connection, first=[("SELECT * FROM nowhere",)]) as pipeline:
            await pipeline.exec_driver_sql(INSERT, {"n": 1})
    cause = driver_error(refused.value)
    assert cause is not None
    assert cause.sqlstate == "42P01"


async def test_steps_may_stand_inside_each_other(connection: AsyncConnection) -> None:
    async with connection.begin_nested():
        with pytest.raises(DBAPIError):
            async with savepoint(connection) as pipeline:
                await pipeline.exec_driver_sql("SELECT 1 / 0")
        async with savepoint(connection) as pipeline:
            answer = await pipeline.exec_driver_sql(INSERT + " RETURNING n", {"n": 1})
    assert await answer.fetchall() == [(1,)]
    assert await numbers(connection) == [1]


async def test_an_array_arrives_to_the_letter(connection: AsyncConnection) -> None:
    texts = [*NAMES, "", "NULL", "{}", ",", '"', "\\", '\\"', '["a\\u0000"]', " ", "\n"]
    parameters = {"texts": text_array(texts), "numbers": number_array([-1, 2**62])}
    [found] = await fetch(connection, "SELECT %(texts)s::text[], %(numbers)s::bigint[]", parameters)
    assert found == (texts, [-1, 2**62])


async def test_stamps_read_alone_are_those_that_are_read_with_the_row(engine: AsyncEngine) -> None:
    await make_primary(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, 3) n")
        await connection.exec_driver_sql("DELETE FROM accounts WHERE id = 'a2'")
        identities = [ACCOUNTS.identity_of(id_, id_) for id_ in ("a1", "a2", "a3", "a4")]
        bare = await fetch(connection, *stamps_query(ACCOUNTS, identities))
        whole = await read_records(connection, ACCOUNTS, identities)
        held = await read_held(connection, ACCOUNTS, identities)
    assert [(*row[:5], row[5] is None, *row[6:]) for row in bare] == [
        (*row[:5], row[5] is None, *row[6:]) for row in whole
    ]
    assert [one.row is None for one in held] == [False, True, False, True]
