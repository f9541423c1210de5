"""G6: a change crosses once. Without new writes both directions go silent, with relay and processor running."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from changefeed.processor import Processor
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.domain.game_session import GameSession
from core.phases import Phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from outbox.relay import open_relay
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

LEASE_S = 1.0
SILENCE_S = 1.5
"""Longer than a lease, so that everything that is done again and again is done meanwhile."""


@asynccontextmanager
async def both_directions(
    settings: Settings, mappings: Mappings, engine: AsyncEngine, cosmos: CosmosStore
) -> AsyncIterator[None]:
    """Run a relay and a processor side by side."""
    stop = asyncio.Event()
    brief = settings.model_copy(update={"relay_lease_s": LEASE_S})
    relay = open_relay(brief, mappings, engine, cosmos)
    processor = Processor(engine, cosmos, mappings, poll_ms=20)
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run(stop))
        group.create_task(processor.run(stop))
        try:
            yield
        finally:
            stop.set()


WRITTEN = (
    "accounts",
    "game_sessions",
    *(f"crossfeed.{name}" for name in ("outbox", "slot", "tombstone", "feed_range", "dead_letter", "phase")),
)


async def rows_written(engine: AsyncEngine) -> dict[str, int]:
    """Return a digest of every row's place and writer, which any insert, update or delete at all would change."""
    digests = {}
    async with engine.connect() as connection:
        for table in WRITTEN:
            result = await connection.exec_driver_sql(
                f"SELECT coalesce(sum(hashtextextended(ctid::text || xmin::text, 0)), 0) FROM {table}"
            )
            digests[table] = int(result.scalar_one())
    return digests


async def documents_written(cosmos: CosmosStore, mappings: Mappings) -> dict[str, str]:
    """Return the newest position of every container, which any write at all would move."""
    positions = {}
    for mapping in mappings:
        documents = [
            f"{document['id']}{document['_etag']}"
            async for document in cosmos.container(mapping).query_items("SELECT c.id, c._etag FROM c")
        ]
        positions[mapping.container] = "".join(sorted(documents))
    return positions


async def settled(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> tuple[dict[str, int], dict[str, str]]:
    """Wait until everything has crossed and nothing has moved for a quarter of a second, for at most fifteen."""
    before: tuple[dict[str, int], dict[str, str]] = ({}, {})
    for _ in range(60):
        now = (await rows_written(engine), await documents_written(cosmos, mappings))
        if now == before and await crossed_both_ways(engine, cosmos, mappings):
            return now
        before = now
        await asyncio.sleep(0.25)
    msg = "it never went silent"
    raise AssertionError(msg)


async def some_work(work_of: Callable[[], PostgresUnitOfWork | CosmosUnitOfWork], number: int) -> None:
    async with work_of() as work:
        await work[Account].add(Account(id=f"a-{number}", email=f"{number}@example.org"))
        await work.commit()
    async with work_of() as work:
        await work[GameSession].add(GameSession(id=f"s-{number}", account_id=f"a-{number}"))
        await work.commit()
    async with work_of() as work:
        account = await work[Account].get_by_id(f"a-{number}")
        assert account is not None
        account.display_name = "changed"
        await work[Account].update(account)
        await work.commit()
    async with work_of() as work:
        session = await work[GameSession].get_by_id(f"s-{number}", partition_key=f"a-{number}")
        assert session is not None
        if number % 2:
            await work[GameSession].delete(session)
        await work.commit()


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_POSTGRES_READ, Phase.DUAL_WRITE_COSMOS_READ])
async def test_without_new_writes_both_directions_go_silent(
    settings: Settings, mappings: Mappings, engine: AsyncEngine, cosmos: CosmosStore, phase: Phase
) -> None:
    row = await switch_phase(engine, cosmos, mappings, phase, who="test", why="test")

    def work_of() -> PostgresUnitOfWork | CosmosUnitOfWork:
        if phase is Phase.DUAL_WRITE_POSTGRES_READ:
            return PostgresUnitOfWork(engine, mappings)
        return CosmosUnitOfWork(cosmos, mappings, row.epoch)

    async with both_directions(settings, mappings, engine, cosmos):
        for number in range(10):
            await some_work(work_of, number)
        before = await settled(engine, cosmos, mappings)
        await asyncio.sleep(SILENCE_S)
        after = (await rows_written(engine), await documents_written(cosmos, mappings))
    assert after == before


async def crossed_both_ways(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> bool:
    """Whether the accounts are all in both stores, in their changed state."""
    found = [
        document["DisplayName"]
        async for document in cosmos.container(mappings.of(Account)).query_items(
            "SELECT * FROM c WHERE NOT IS_DEFINED(c.crossfeed.kind)"
        )
    ]
    async with engine.connect() as connection:
        rows = (await connection.exec_driver_sql("SELECT display_name FROM accounts")).scalars().all()
    return found == ["changed"] * 10 and list(rows) == ["changed"] * 10
