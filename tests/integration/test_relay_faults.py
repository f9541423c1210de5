"""The relay when things fail: it waits, repeats, never counts an outage against a document, and stops when told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from core.cosmos.documents import CosmosDocuments
from core.cosmos.failures import CosmosUnavailableError
from core.entity import Entity
from core.errors import ConflictError, StoreUnavailableError
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase
from core.postgres import capture
from core.postgres.guarded import apply_documents
from core.postgres.phases import read_phase
from outbox import current_state, states
from outbox.delivery import PassTooOldError
from outbox.relay import Relay, open_relay
from tests.integration.relay_steps import MemorySink, differences, letters, make_primary, run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Publish
    from core.settings import Settings


class Failing:
    """Fails the first `times` writes of documents other than `a`."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left = times
        self.error = error
        self.asked: list[str] = []

    def __call__(self, item: Publish) -> None:
        self.asked.append(item.identity.id)
        if item.identity.id != "a" and self.left:
            self.left -= 1
            raise self.error


async def test_an_outage_is_waited_for_and_what_was_delivered_is_not_sent_again(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a'), ('b'), ('c')")
    failing = Failing(4, StoreUnavailableError("the store is away"))
    sink = MemorySink(before=failing)
    relay = Relay(settings.model_copy(update={"relay_concurrency": 1}), mappings, engine, sink)
    await relay.drain()
    assert sorted(item.identity.id for item in sink.history) == ["a", "b", "c"]
    assert failing.asked.count("a") == 1
    assert relay.stats.retries == 4
    assert (relay.stats.messages, relay.stats.published, relay.stats.dead_lettered) == (3, 3, 0)
    assert await letters(engine) == []


async def test_a_store_that_asks_to_wait_is_not_asked_again_before(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('b')")
    sink = MemorySink(before=Failing(1, CosmosUnavailableError("throttled", retry_after_s=0.4)))
    started = time.monotonic()
    await Relay(settings, mappings, engine, sink).drain()
    assert 0.4 <= time.monotonic() - started < 2
    assert len(sink.history) == 1


async def test_lost_connections_to_postgres_are_survived(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = MemorySink()
    relay = Relay(settings, mappings, engine, sink)
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    own = sa.create_engine("postgresql+psycopg://", creator=lambda: _connect(settings))
    with own.connect() as connection:
        for number in range(30):
            connection.exec_driver_sql(f"INSERT INTO accounts (id) VALUES ('k{number}')")
            connection.commit()
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'crossfeed'"
            )
            await asyncio.sleep(0.01)
    own.dispose()
    await until(lambda: len(sink.states) == 30)
    stop.set()
    await running
    assert relay.stats.dead_lettered == 0


def _connect(settings: Settings) -> Any:
    return psycopg.connect(settings.require_postgres())


async def test_a_relay_stops_at_once_when_idle_and_while_it_waits_for_a_store(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = MemorySink(before=Failing(1000, CosmosUnavailableError("throttled", retry_after_s=60)))
    relay = Relay(settings, mappings, engine, sink)
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    await until(lambda: relay.stats.passes > 2)
    await run(engine, "INSERT INTO accounts (id) VALUES ('b')")
    await until(lambda: relay.stats.retries == 1)
    stop.set()
    async with asyncio.timeout(1):
        await running


async def test_a_pass_older_than_half_a_tombstones_life_is_dropped_and_read_again(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a'), ('b'), ('c')")
    now = [0.0]
    sent: list[str] = []

    def sleep(item: Publish) -> None:
        sent.append(item.identity.id)
        if len(sent) == 1:
            now[0] += settings.tombstone_ttl_s / 2 + 1

    sink = MemorySink(before=sleep)
    relay = Relay(settings.model_copy(update={"relay_concurrency": 1}), mappings, engine, sink, clock=lambda: now[0])
    with pytest.raises(PassTooOldError):
        await relay.run_once()
    assert len(sent) == 1
    await run(engine, "DELETE FROM accounts WHERE id = 'c'")
    await relay.drain()
    assert sorted(sent) == ["a", "b", "c"]
    assert {identity.id for identity, item in sink.states.items() if item.deleted} == {"c"}


async def test_a_fault_of_the_program_is_logged_and_waited_for(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('b')")
    sink = MemorySink(before=Failing(2, ZeroDivisionError("of 4111 1111 1111 1111")))
    relay = Relay(settings, mappings, engine, sink)
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    await until(lambda: len(sink.history) == 1)
    stop.set()
    await running
    said = capsys.readouterr()
    assert "relay.unexpected" in said.out + said.err
    assert "4111" not in said.out + said.err


class Reading(Entity):
    """Its partition key is a number, which raw SQL can make larger than JSON can say."""

    meter: float


METADATA = sa.MetaData()
READINGS = EntityMapping(
    Reading,
    table=sa.Table(
        "readings",
        METADATA,
        sa.Column("meter", sa.Numeric, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
    ),
    container="Readings",
    partition_key="/meter",
)


async def test_a_key_that_cannot_even_be_read_back_holds_back_only_itself(
    settings: Settings, engine: AsyncEngine
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.run_sync(capture.install, READINGS)
    await make_primary(engine)
    await run(
        engine,
        "INSERT INTO readings VALUES (1, 'a'), (2.50, 'b'), (1e400, 'huge'), (4, 'd'), (2::numeric ^ 70, 'large'),"
        " (0.12345678901234567890123, 'fine'), ('NaN', 'nan'), (7, 'g')",
        # Left in the log by an older mapping, whose key was a text or had two levels.
        """INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
            VALUES (0, 'Reading', '["no number"]', 'text', 1, 1, false), (0, 'Reading', '[1,2]', 'two', 1, 1, false)""",
    )
    sink = MemorySink()
    impatient = settings.model_copy(update={"relay_attempts": 1})
    await Relay(impatient, Mappings([READINGS]), engine, sink).drain()
    assert sorted(str(item.identity) for item in sink.history) == [
        "Reading [1] 'a'",
        "Reading [2.5] 'b'",
        "Reading [4] 'd'",
        "Reading [7] 'g'",
    ]
    assert sorted(letter[2] for letter in await letters(engine)) == ["fine", "huge", "large", "nan", "text", "two"]


async def test_a_foreign_document_in_the_way_is_kept_once_whoever_finds_it(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    identity = accounts.identity_of("a", "a")
    relay = open_relay(settings, mappings, engine, cosmos)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    await relay.drain()
    await cosmos.container(accounts).upsert_item({"id": "a", "Email": "rogue"})
    rogue = await CosmosDocuments(cosmos, mappings).read(identity)
    assert rogue is not None
    await run(engine, "UPDATE accounts SET email = 'x'")
    await relay.drain()
    assert await differences(engine, cosmos, accounts, [identity]) == []
    assert relay.stats.quarantined == 1
    [letter] = await letters(engine)
    assert letter[:4] == ("to_postgres", "rogue_write", "a", 1)
    async with engine.begin() as connection:
        await apply_documents(
            connection, mappings, accounts.container, [rogue], await read_phase(connection), _Always(rogue)
        )
    [again] = await letters(engine)
    assert again[:4] == ("to_postgres", "rogue_write", "a", 2)
    assert again[4] == letter[4]
    await relay.drain()
    assert relay.stats.published == 2  # the mirror did not heal what had been healed


class _Always:
    """Reads the same document whatever is there by now."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    async def read(self, _: Any) -> dict[str, Any]:
        return self._document

    async def reach(self, container: str, epoch: int) -> None:
        """It is of no time at all."""


async def test_an_epoch_that_is_opened_while_a_batch_is_loaded_drops_the_pass(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    sink = MemorySink()

    async def late(*arguments: Any) -> Any:
        await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
        return await current_state.load(*arguments)

    monkeypatch.setattr(states, "load", late)
    with pytest.raises(ConflictError):
        await Relay(settings, mappings, engine, sink).run_once()
    assert sink.history == []
