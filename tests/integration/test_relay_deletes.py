"""G5 towards Cosmos DB: late messages, replays and zombies never resurrect a deleted document."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.cosmos.documents import CosmosDocuments
from core.cosmos.guarded import GuardedWriter
from core.envelope import is_deleted
from core.postgres.held import read_held
from outbox.quarantine import LetterQuarantine
from outbox.relay import Relay, open_relay
from outbox.stats import RelayStats
from tests.integration.relay_steps import (
    MemorySink,
    connect,
    differences,
    falls_silent,
    logged,
    make_primary,
    run,
    until,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Outcome, Publish
    from core.mappings import Mappings
    from core.settings import Settings

REWIND = "UPDATE crossfeed.slot SET seen = '3:3:', target = NULL, position = 0"


class SleepingSink:
    """The guarded write of a relay that is stopped just before it sends."""

    def __init__(self, writer: GuardedWriter) -> None:
        self._writer = writer
        self.asleep = asyncio.Event()
        self.wake = asyncio.Event()

    async def write(self, items: Sequence[Publish], *, check: Any, **how: Any) -> list[Outcome]:
        self.asleep.set()
        await self.wake.wait()
        return await self._writer.write(items, **how)


async def test_a_message_that_comes_after_the_delete_changes_nothing(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    identity = accounts.identity_of("a", "a")
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    await open_relay(settings, mappings, engine, cosmos).drain()
    await run(engine, "UPDATE accounts SET email = 'x'", "DELETE FROM accounts")
    await open_relay(settings, mappings, engine, cosmos).drain()
    before = await CosmosDocuments(cosmos, mappings).read(identity)
    assert before is not None
    assert is_deleted(before)
    await run(engine, REWIND)
    relay = open_relay(settings, mappings, engine, cosmos)
    await relay.drain()
    assert relay.stats.messages == 3
    assert (relay.stats.published, relay.stats.unchanged) == (0, 1)
    assert await CosmosDocuments(cosmos, mappings).read(identity) == before


async def test_a_relay_that_slept_through_the_delete_does_not_resurrect_the_document(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    stats = RelayStats()
    sink = SleepingSink(GuardedWriter(cosmos, mappings, LetterQuarantine(engine, mappings, stats), 8))
    zombie = Relay(settings, mappings, engine, sink, stats)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    sleeping = asyncio.ensure_future(zombie.drain())
    await sink.asleep.wait()
    await falls_silent(engine, zombie)
    await run(engine, "DELETE FROM accounts")
    await open_relay(settings, mappings, engine, cosmos).drain()
    del zombie.leases.renew_if_due
    sink.wake.set()
    await sleeping
    assert await differences(engine, cosmos, accounts, [accounts.identity_of("a", "a")]) == []
    assert stats.superseded == 1
    assert stats.retries == 1  # it could not move the cursor back, and went on from where the other had left it


async def raced(settings: Settings, engine: AsyncEngine) -> None:
    """Delete a row and insert it again so that the insert was stamped before it could see the tombstone."""
    await run(
        engine,
        "INSERT INTO accounts (id) VALUES ('a')",
        *["UPDATE accounts SET email = email || 'x' WHERE id = 'a'"] * 3,
    )
    async with await connect(settings) as deleting, await connect(settings) as inserting:
        await deleting.execute("BEGIN; DELETE FROM accounts WHERE id = 'a'")
        waiting = asyncio.ensure_future(inserting.execute("INSERT INTO accounts (id, email) VALUES ('a', 'back')"))
        await until(lambda: _waits(engine))
        await deleting.execute("COMMIT")
        await waiting
    assert (await versions(engine, "accounts"))["a"] == 1


async def _waits(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE NOT l.granted AND a.datname = current_database())"
        )
        return bool(result.scalar_one())


@pytest.mark.parametrize("delivered_before", [True, False])
async def test_a_row_inserted_in_a_race_with_its_own_delete_is_lifted_above_its_tombstone(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, delivered_before: bool
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    relay = open_relay(settings, mappings, engine, cosmos)
    await run(engine, "INSERT INTO accounts (id) VALUES ('b')")
    if delivered_before:
        await relay.drain()
    await raced(settings, engine)
    await relay.drain()
    assert await versions(engine, "accounts") == {"a": 6, "b": 1}
    assert relay.stats.lifted == 1
    document = await CosmosDocuments(cosmos, mappings).read(accounts.identity_of("a", "a"))
    assert document is not None
    assert (document["Email"], is_deleted(document)) == ("back", False)
    assert await differences(engine, cosmos, accounts, [accounts.identity_of(id_, id_) for id_ in "ab"]) == []
    messages = len(await logged(engine))
    await relay.drain()
    assert len(await logged(engine)) == messages


async def test_a_raced_row_that_a_writer_has_locked_holds_back_nobody_and_comes_later(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine)
    sink = MemorySink()
    relay = Relay(settings, mappings, engine, sink)
    await raced(settings, engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('b')")
    async with await connect(settings) as locking:
        await locking.execute("BEGIN; SELECT * FROM accounts WHERE id = 'a' FOR UPDATE")
        await relay.run_once()
        assert [item.identity.id for item in sink.history] == ["b"]
        await locking.execute("ROLLBACK")
    await relay.drain()
    accounts = mappings.named("Account")
    async with engine.connect() as connection:
        [held] = await read_held(connection, accounts, [accounts.identity_of("a", "a")])
    assert sink.states[held.identity].stamp == held.stamp
    assert held.live_row is not None
