"""`kill -9` of a relay at random moments while writers write: nothing is lost, nothing goes back, nothing is dead."""

from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from outbox.relay import open_relay
from tests.chaos.fleet import open_fleet, written
from tests.integration.relay_steps import Feed, connect, differences, letters, make_primary

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

WRITERS = 3
KEYS = 30
ROUNDS = 20
ONCE = "INSERT INTO accounts (id) VALUES ('once{serial}')"
"""Written once and never again: no later state covers up for a lost one."""
WRITES = (
    "INSERT INTO accounts (id) VALUES ('a{key}') ON CONFLICT (id) DO UPDATE SET email = accounts.email || 'x'",
    "UPDATE accounts SET email = 'short' WHERE id = 'a{key}'",
    "DELETE FROM accounts WHERE id = 'a{key}'",
    "INSERT INTO pending_signups (id, email) VALUES ('s{key}', 'one') ON CONFLICT DO NOTHING",
    "UPDATE pending_signups SET email = CASE email WHEN 'one' THEN 'two' ELSE 'one' END WHERE id = 's{key}'",
)


@pytest.mark.chaos  # test_relay_chaos.py has a short form that kills relays too, and writes the same
async def test_a_relay_that_is_killed_at_random_moments_loses_nothing(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, tmp_path: Path
) -> None:
    await make_primary(engine)
    rng = random.Random()
    done = asyncio.Event()
    feeds = [Feed(cosmos, mappings.named(name)) for name in ("Account", "PendingSignup")]
    writers = [asyncio.ensure_future(write(settings, seed, done)) for seed in range(WRITERS)]
    # A small page and few lanes: a pass takes a while, and most kills hit the middle of one. A short lease: the next
    # relay finds the slots of the killed one free.
    small = {"CROSSFEED_RELAY_PAGE_SIZE": "100", "CROSSFEED_RELAY_CONCURRENCY": "4", "CROSSFEED_RELAY_LEASE_S": "0.3"}
    try:
        async with open_fleet(settings, tmp_path / "relays.log", **small) as fleet:
            for _ in range(ROUNDS):
                pid = await fleet.start()
                await asyncio.sleep(rng.uniform(0.4, 1.2))  # about the first 0.4 s are for its connections
                fleet.kill(pid)
                for feed in feeds:
                    await feed.read()
            assert fleet.crashes() == []
    finally:
        done.set()
        await asyncio.gather(*writers)
    delivered_by_the_killed = sum(len(stamps) for feed in feeds for stamps in feed.stamps.values())
    assert delivered_by_the_killed > 0
    last = open_relay(settings, mappings, engine, cosmos)
    await last.drain()
    for name, identities in (await written(engine)).items():
        assert await differences(engine, cosmos, mappings.named(name), identities) == []
    assert await letters(engine) == []
    for feed in feeds:
        await feed.read()
        feed.check_order()
    print(f"{ROUNDS} kills, {delivered_by_the_killed} writes seen before the last, {last.stats.messages} left for it")


async def write(settings: Settings, seed: int, done: asyncio.Event) -> None:
    rng = random.Random(seed)
    async with await connect(settings) as session:
        for number in count():
            if done.is_set():
                break
            statement: Any = (ONCE if rng.random() < 0.5 else rng.choice(WRITES)).format(
                key=rng.randrange(KEYS), serial=f"{seed}-{number}"
            )
            with contextlib.suppress(psycopg.errors.UniqueViolation):
                async with session.transaction(force_rollback=rng.random() < 0.1):
                    await session.execute(statement)
            await asyncio.sleep(rng.uniform(0, 0.01))
