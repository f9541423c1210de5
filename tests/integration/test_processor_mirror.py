"""The self-hosted processor on real stores: what it carries, what it leaves alone, how it survives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from changefeed.processor import Processor
from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.domain.samples import sample_documents
from core.envelope import Origin, stamped
from core.errors import ConfigurationError
from core.identity import Identity
from core.phases import Phase
from core.postgres.held import read_held
from core.projection import same_json
from core.stamp import Stamp
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
async def processor(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Processor:
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return Processor(engine, cosmos, mappings)


async def scalar(engine: AsyncEngine, statement: str) -> Any:
    async with engine.connect() as connection:
        return (await connection.execute(text(statement))).scalar_one()


async def true(engine: AsyncEngine, statement: str) -> bool:
    return bool(await scalar(engine, statement))


async def until(condition: Callable[[], Awaitable[bool] | bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


async def moved_rows(engine: AsyncEngine) -> str:
    """Change whenever any row, tombstone, message, dead letter or checkpoint is written, even to the same values."""
    tables = ("accounts", "user_profiles", "pending_signups", "game_sessions", "crossfeed.tombstone",
              "crossfeed.outbox", "crossfeed.dead_letter", "crossfeed.feed_range")  # fmt: skip
    parts = " || ".join(f"(SELECT coalesce(string_agg(xmin::text || ctid::text, ',' ORDER BY ctid), '') FROM {t})"
                        for t in tables)  # fmt: skip
    return str(await scalar(engine, f"SELECT md5({parts})"))


async def test_legacy_documents_arrive_to_the_letter(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    documents = sample_documents(200, seed=1)
    for name, items in documents.items():
        for item in items:
            await cosmos.container_named(name).create_item(item)

    await processor.run_once()

    for mapping in mappings:
        items = documents[mapping.container]
        async with engine.connect() as connection:
            held = await read_held(connection, mapping, [mapping.identity(item) for item in items])
        for item, found in zip(items, held, strict=True):
            assert found.live_row is not None, item
            assert same_json(found.live_row.document(mapping), item)
    assert processor.stats.applied == 200
    assert processor.stats.dead_lettered == 0
    assert len(processor.stats.lags.values) == 204  # the watermarks too


async def test_nothing_at_all_is_written_when_nothing_comes(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await cosmos.container(ACCOUNTS).create_item({"id": "a"})
    stop = asyncio.Event()
    running = asyncio.create_task(processor.run(stop))
    await until(lambda: processor.stats.documents == 5)  # the watermarks of four containers as well
    before = await moved_rows(engine)
    await asyncio.sleep(1)
    after = await moved_rows(engine)
    stop.set()
    await running
    assert after == before


async def test_what_was_acknowledged_is_not_read_again(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await cosmos.container(ACCOUNTS).create_item({"id": "a"})
    await processor.run_once()
    another = Processor(engine, cosmos, mappings)
    await another.run_once()
    assert another.stats.documents == 0


async def test_a_second_processor_at_the_same_ranges_does_no_harm(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    others = [processor, Processor(engine, cosmos, mappings, page_size=3, poll_ms=5)]
    stop = asyncio.Event()
    running = [asyncio.create_task(one.run(stop)) for one in others]
    for number in range(60):
        await cosmos.container(ACCOUNTS).upsert_item({"id": f"a{number % 7}", "DisplayName": str(number)})
    await until(lambda: true(engine, "SELECT count(*) = 7 FROM accounts WHERE display_name::int >= 53"))
    stop.set()
    await asyncio.gather(*running)
    assert await scalar(engine, "SELECT count(*) FROM crossfeed.dead_letter") == 0


async def test_a_batch_and_its_checkpoint_are_one_transaction(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    await cosmos.container(ACCOUNTS).create_item({"id": "a"})
    with monkeypatch.context() as patched:
        patched.setattr("changefeed.follower.move_checkpoint", die)
        with pytest.raises(ZeroDivisionError):
            await processor.run_once()
    assert await scalar(engine, "SELECT count(*) FROM accounts") == 0
    await processor.run_once()
    assert await scalar(engine, "SELECT count(*) FROM accounts") == 1


async def test_a_page_read_before_a_switch_is_not_applied_after_it(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    """A document of ours, read while Cosmos DB was primary and held back, must not write once Postgres is."""
    stop = asyncio.Event()
    running = asyncio.create_task(processor.run(stop))
    await until(lambda: processor.stats.documents >= len(mappings))
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO accounts (id, display_name) VALUES ('a', 'of postgres')"))
    late = stamped({"id": "a", "DisplayName": "late"}, Stamp(2, 7), Origin.COSMOS)
    await cosmos.container(ACCOUNTS).create_item(late)
    await until(lambda: processor.stats.quarantined > 0)
    stop.set()
    await running
    assert processor.stats.retries["PrimaryMovedError"] >= 1
    assert await scalar(engine, "SELECT display_name FROM accounts") == "of postgres"
    assert await scalar(engine, "SELECT kind FROM crossfeed.dead_letter") == "late_write"


async def test_a_deleted_document_becomes_a_tombstone(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    container = cosmos.container(ACCOUNTS)
    await container.create_item({"id": "a"})
    await processor.run_once()
    identity = Identity.of(ACCOUNTS.name, ["a"], "a")
    gone = stamped(ACCOUNTS.tombstone_content(identity, 3600), Stamp(2, 2), Origin.COSMOS, deleted=True)
    await container.upsert_item(gone)
    await processor.run_once()
    async with engine.connect() as connection:
        [held] = await read_held(connection, ACCOUNTS, [identity])
    assert held.row is None
    assert held.tombstone is not None
    assert processor.stats.buried == 1


async def test_a_poisonous_document_holds_back_only_itself(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    container = cosmos.container(ACCOUNTS)
    for item in ({"id": "a"}, {"id": "bad", "Email": 7}, {"id": "b"}):
        await container.create_item(item)
    await processor.run_once()
    assert await scalar(engine, "SELECT string_agg(id, '' ORDER BY id) FROM accounts") == "ab"
    assert await scalar(engine, "SELECT id FROM crossfeed.dead_letter") == "bad"
    await container.upsert_item({"id": "bad", "Email": "good@example.com"})
    await processor.run_once()
    assert await scalar(engine, "SELECT count(*) FROM crossfeed.dead_letter") == 0


async def test_a_database_that_fails_is_waited_for(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(processor.run(stop))
    container = cosmos.container(ACCOUNTS)
    for number in range(20):
        await container.create_item({"id": f"a{number}"})
        if number % 5 == 0:
            async with engine.connect() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
    await until(lambda: true(engine, "SELECT count(*) = 20 FROM accounts"))
    stop.set()
    await running
    assert await scalar(engine, "SELECT count(*) FROM crossfeed.dead_letter") == 0


async def test_every_feed_range_of_a_container_has_a_checkpoint_of_its_own(
    engine: AsyncEngine, cosmos: CosmosStore, settings: Settings, mappings: Mappings
) -> None:
    wide = settings.model_copy(update={"cosmos_database": f"{settings.cosmos_database}_wide"})
    async with open_cosmos(wide) as store:
        await store.provision(mappings, throughput=30_000)
        await switch_phase(engine, store, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
        for number in range(60):
            await store.container(ACCOUNTS).create_item({"id": f"a{number}"})
        processor = Processor(engine, store, mappings)
        await processor.run_once()
        assert processor.stats.documents == 60 + 4 * 5  # a watermark in each of five ranges of four containers
        again = Processor(engine, store, mappings)
        await again.run_once()
    assert again.stats.documents == 0
    assert await scalar(engine, "SELECT count(*) FROM accounts") == 60
    assert await scalar(engine, "SELECT count(*) FROM crossfeed.feed_range WHERE feed = 'mirror/Accounts'") == 5


async def test_a_container_that_was_created_anew_is_named(
    processor: Processor, engine: AsyncEngine, cosmos: CosmosStore, settings: Settings, mappings: Mappings
) -> None:
    await processor.run_once()
    await cosmos.client.get_database_client(cosmos.database).delete_container("Accounts")
    async with open_cosmos(settings) as store:
        await store.provision(mappings)
        with pytest.raises(ConfigurationError, match=r"'Accounts' .* created anew\? Delete its rows"):
            await Processor(engine, store, mappings).run_once()
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM crossfeed.feed_range WHERE feed = 'mirror/Accounts'"))
        await store.container(ACCOUNTS).create_item({"id": "a"})
        await Processor(engine, store, mappings).run_once()
    assert await scalar(engine, "SELECT count(*) FROM accounts") == 1
