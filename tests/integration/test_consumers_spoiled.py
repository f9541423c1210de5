"""A handler that spoils the transaction of its page is done without, and the page has its effects all the same."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from core.errors import StoreUnavailableError
from core.postgres.engine import open_engine
from tests.integration.consumer_steps import DIARY, Room, Said, document, executing, failing_at, no_trouble

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.handlers import Received
    from core.settings import Settings
    from tests.integration.consumer_steps import Trouble
    from tests.stores import PostgresServer


@pytest.fixture
async def room(engine: AsyncEngine, settings: Settings) -> Room:
    made = Room(engine, settings.model_copy(update={"consumer_attempts": 3, "consumer_timeout_s": 0.2}))
    await made.run(DIARY)
    return made


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
async def test_a_handler_that_ends_the_transaction_has_failed(room: Room, method: str) -> None:
    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if name == "one" and received.event.number == 1:
            await getattr(connection, method)()

    room.trouble = trouble
    await room.apply(document(3, "c"), document(1), document(2, "b"))
    assert await room.parked() == [("one", "a-1", 1)]
    assert await room.said("one", "b") == [2]
    assert await room.said("one", "c") == await room.said("two", "c") == [3]
    for _ in range(2):
        await room.retry()
    assert await room.letters() == [("one:a-1", "a", 3)]
    assert "the handler ended the transaction" in (await room.reasons())[0]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1)], ids=["cancelled", "exit"])
async def test_a_handler_that_raises_what_ends_tasks_or_processes_has_failed(room: Room, error: BaseException) -> None:
    room.trouble = failing_at(1, error=error)
    with suppress(asyncio.CancelledError, SystemExit):
        await room.apply(document(1), document(2, "b"))
    assert await room.parked() == [("one", "a-1", 1)]
    assert await room.said("one", "b") == [2]


async def test_a_page_that_is_cancelled_in_a_handler_has_no_effect(room: Room) -> None:
    begun = asyncio.Event()

    async def wait(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        begun.set()
        await asyncio.sleep(0.1)

    room.trouble = wait
    page = asyncio.create_task(room.apply(document(1)))
    await begun.wait()
    page.cancel()
    with pytest.raises(asyncio.CancelledError):
        await page
    assert not [*await room.parked(), *await room.said()]


@pytest.mark.parametrize("sql", ["ROLLBACK", "ROLLBACK; SELECT 1", "ROLLBACK; SELECT 1 / 0"])
async def test_what_a_handler_rolls_back_of_others_is_done_again(room: Room, sql: str) -> None:
    room.trouble = executing(*sql.split("; "))
    await room.apply(document(2, "b"), document(1), document(3, "c"))
    assert await room.parked() == [("one", "a-1", 1)]
    for of, number in (("b", 2), ("c", 3)):
        assert await room.said("one", of) == await room.said("two", of) == [number]
    assert await room.said("two") == [1]


async def test_a_handler_that_goes_on_after_an_error_of_postgres_has_failed(room: Room) -> None:
    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if name == "one" and received.event.number == 1:
            with suppress(DBAPIError):
                await connection.exec_driver_sql("SELECT 1 / 0")

    room.trouble = trouble
    await room.apply(document(2, "b"), document(1))
    assert await room.parked() == [("one", "a-1", 1)]
    assert await room.said("one", "b") == [2]


@pytest.mark.parametrize("trouble", [executing("SELECT pg_sleep(30)"), None])
async def test_a_handler_that_takes_too_long_has_failed_and_the_others_go_on(
    room: Room, trouble: Trouble | None
) -> None:
    async def sleep(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if name == "one" and received.event.number == 1:
            await asyncio.sleep(30)

    room.trouble = trouble or sleep
    await room.apply(document(1), document(2, "b"))
    assert await room.parked() == [("one", "a-1", 1)]
    assert await room.said("one", "b") == [2]
    await room.retry()
    assert await room.parked() == [("one", "a-1", 2)]


async def test_a_connection_that_is_lost_in_a_handler_is_nobodys_fault_and_stops_nobody_else(room: Room) -> None:
    room.trouble = executing("SELECT pg_terminate_backend(pg_backend_pid())")
    await room.apply(document(2, "b"), document(1), document(3, "c"))
    for _ in range(4):
        await room.retry()
    assert await room.parked() == [("one", "a-1", 0)]
    assert await room.said("one", "b") == [2]
    assert await room.said("one", "c") == [3]
    room.trouble = no_trouble
    await room.retry()
    assert await room.said() == [1]


async def test_an_outage_that_begins_in_a_handler_is_raised(
    settings: Settings, postgres_server: PostgresServer, template_database: str
) -> None:
    database = f"outage_{uuid.uuid4().hex}"
    dsn = await postgres_server.create_database(database, template=template_database)

    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        await postgres_server.drop_database(database)
        await connection.exec_driver_sql("SELECT 1")

    async with open_engine(settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})) as engine:
        room = Room(engine, settings, trouble)
        await room.run(DIARY)
        with pytest.raises(StoreUnavailableError):
            await room.apply(document(1))


async def test_what_fails_only_at_the_commit_is_the_fault_of_the_event_that_did_it(room: Room) -> None:
    await room.run("CREATE TABLE once (number integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if name == "one":
            number = received.event.number
            await connection.exec_driver_sql(f"INSERT INTO once VALUES ({number}), ({number})")
            if number == 1:  # in order again before the commit
                await connection.exec_driver_sql("DELETE FROM once WHERE ctid = (SELECT max(ctid) FROM once)")

    room.trouble = trouble
    await room.apply(document(3, "b"), document(1), document(2))
    assert await room.said("one") == [1]
    assert await room.parked() == [("one", "b-3", 1), ("one", "a-2", 1)]
    await room.retry()
    assert await room.parked() == [("one", "b-3", 2), ("one", "a-2", 2)]
    room.trouble = no_trouble
    await room.retry()
    assert await room.said("one", "b") == [3]
