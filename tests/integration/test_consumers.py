"""Each handler gets each event once, an aggregate's in their order, and nothing of what it has no use for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from changefeed.consumers import Consumers
from core.crossfeed import Crossfeed
from core.domain.shapes import UNSET
from core.domain.tables import welcomes
from core.domain.use_cases.accounts import register_account
from core.errors import ConcurrencyError
from core.events import Event, EventRegistry
from core.handlers import Handlers, Received, Start
from core.postgres.engine import open_engine
from functions.bootstrap import bootstrap
from tests.integration.consumer_steps import DIARY, Left, Room, Said, document, failing_at, no_trouble
from tests.integration.relay_steps import make_primary, run
from tests.pgbouncer import PgBouncerMissingError, pgbouncer

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


@pytest.fixture
async def room(engine: AsyncEngine, settings: Settings) -> Room:
    made = Room(engine, settings)
    await made.run(DIARY)
    return made


async def test_each_handler_gets_each_event_once_and_in_order(room: Room) -> None:
    await room.apply(document(1), document(2), document(1, "b"), document(3))
    assert await room.said("one") == await room.said("two") == [1, 2, 3]
    assert await room.said("one", "b") == [1]
    assert room.consumers.counts()["handled"] == 8


async def test_what_nobody_handles_is_counted_and_passed_over(room: Room) -> None:
    foreign: list[dict[str, Any]] = [{"id": "x", "subject": 7, "_ts": 1}, {"id": "y", "type": ["said"], "_ts": 1}]
    await room.apply(document(1, event=Left()), *foreign, document(2))
    assert room.consumers.counts()["unknown"] == 3
    assert await room.said() == [2]
    assert await room.parked() == []


async def test_a_page_that_is_not_acknowledged_has_no_effect_and_comes_again(room: Room) -> None:
    async def refuse(connection: AsyncConnection) -> None:
        raise ConcurrencyError("another processor has the range")

    with pytest.raises(ConcurrencyError):
        await room.apply(document(1), acknowledge=refuse)
    assert await room.said() == []
    await room.apply(document(1))
    assert await room.said() == [1]


async def test_a_handler_is_told_all_there_is_to_know(room: Room) -> None:
    told: list[Received[Said]] = []

    async def listen(received: Received[Said], connection: AsyncConnection) -> None:
        told.append(received)

    handlers = Handlers()
    handlers.on(Said)(listen)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await room.apply(document(1, traceparent=parent), by=Consumers(room.engine, handlers, room.settings))
    [received] = told
    assert received.event == Said(number=1)
    assert (received.id, received.subject, received.attempt) == ("a-1", "Account/a", 1)
    assert received.time == datetime.fromtimestamp(1_000, UTC)
    assert received.traceparent == parent
    assert str(received.aggregate) == "Account [\"a\"] 'a'"
    assert received.envelope["sequence"] == f"{1:020}"


class Renamed(Event, name="renamed", version=2):
    """Its first version had one name."""

    names: list[str]


async def test_old_versions_come_by_way_of_their_upcasters_and_newer_ones_wait_for_a_newer_program(room: Room) -> None:
    heard: list[list[str]] = []

    async def listen(received: Received[Renamed], connection: AsyncConnection) -> None:
        heard.append(received.event.names)

    events = EventRegistry([Renamed], {("renamed", 1): lambda data: {"names": [data["name"]]}})
    handlers = Handlers(events)
    handlers.on(Renamed)(listen)
    consumers = Consumers(room.engine, handlers, room.settings)
    schema = "urn:crossfeed:event:renamed:"
    first = document(1, event=Renamed(names=[]), dataschema=f"{schema}1", data={"name": "Ann"})
    second = document(2, event=Renamed(names=["Bo"]))
    third = document(3, event=Renamed(names=["Cy"]), dataschema=f"{schema}3")
    await room.apply(first, second, third, by=consumers)
    assert heard == [["Ann"], ["Bo"]]
    assert await room.parked() == [("listen", "a-3", 1)]


async def test_a_new_handler_starts_at_the_beginning_or_now_and_that_is_remembered(room: Room) -> None:
    heard: list[tuple[str, int]] = []
    handlers = Handlers()

    @handlers.on(Said, start=Start.NOW)
    async def from_now(received: Received[Said], connection: AsyncConnection) -> None:
        heard.append(("now", received.event.number))

    @handlers.on(Said)
    async def from_the_beginning(received: Received[Said], connection: AsyncConnection) -> None:
        heard.append(("beginning", received.event.number))

    [(now,)] = await room.rows("SELECT floor(extract(epoch FROM clock_timestamp()))::bigint")
    await asyncio.gather(*(Consumers(room.engine, handlers, room.settings).begin() for _ in range(2)))
    await room.run("UPDATE crossfeed.consumer SET since = since + interval '1 hour'")  # as if it were later by now
    consumers = Consumers(room.engine, handlers, room.settings)
    await room.apply(document(1, ts=now), document(2, ts=now + 3599), document(3, ts=now + 3700), by=consumers)
    assert heard == [("beginning", 1), ("beginning", 2), ("now", 3), ("beginning", 3)]
    assert consumers.counts()["before_start"] == 2


async def test_the_example_greets_each_account_once_whoever_reads_the_container_again(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    consuming = settings.model_copy(update={"consumers": "core.domain.welcomes:HANDLERS"})
    async with (
        bootstrap(consuming, engine=engine, store=cosmos) as application,
        Crossfeed.open(settings, application.mappings) as db,
    ):
        for name in ("Ann", "Bo"):
            async with db.unit_of_work() as work:
                email = f"{name}@example.org"
                await register_account(work, id_=name, email=email, auth0_user_id="", display_name=name, now=UNSET)
                await work.commit()
        await application.relay.drain()
        await application.processor.run_once()
        await run(engine, "DELETE FROM crossfeed.feed_range WHERE starts_with(feed, 'consumers-')")
        await application.processor.run_once()
        async with engine.connect() as connection:
            rows = await connection.execute(welcomes.select().order_by(welcomes.c.account_id))
            assert [tuple(row) for row in rows] == [("Ann", "Welcome, Ann!"), ("Bo", "Welcome, Bo!")]
        counts = next(
            applier.counts() for name, applier in application.processor.appliers.items() if name.startswith("consumers")
        )
        assert (counts["handled"], counts["repeated"]) == (2, 2)


async def test_consumers_share_two_sessions_of_a_pool(room: Room, settings: Settings) -> None:
    try:
        with pgbouncer(settings.require_postgres(), pool_size=2) as dsn:
            async with open_engine(settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})) as engine:
                several = [room.another(engine=engine) for _ in range(4)]
                room.trouble = failing_at(3)
                page = [document(number) for number in range(1, 5)]
                await asyncio.gather(*(room.apply(*page, by=consumers) for consumers in several))
                room.trouble = no_trouble
                await asyncio.gather(*(room.retry(by=consumers) for consumers in several))
    except PgBouncerMissingError as error:
        pytest.skip(str(error))
    assert await room.said("one") == await room.said("two") == [1, 2, 3, 4]
