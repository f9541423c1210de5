"""`kill -9` of a relay at random moments while writers write: nothing is lost, nothing goes back, nothing is dead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from core.identity import Identity
from outbox.relay import open_relay
from tests.integration.relay_steps import Feed, connect, differences, letters, make_primary

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

ROOT = Path(__file__).parents[2]
WRITERS = 3
KEYS = 30
ONCE = "INSERT INTO accounts (id) VALUES ('once{serial}')"
"""Written once and never again: no later state covers up for a lost one."""
WRITES = (
    "INSERT INTO accounts (id) VALUES ('a{key}') ON CONFLICT (id) DO UPDATE SET email = accounts.email || 'x'",
    "UPDATE accounts SET email = 'short' WHERE id = 'a{key}'",
    "DELETE FROM accounts WHERE id = 'a{key}'",
    "INSERT INTO pending_signups (id, email) VALUES ('s{key}', 'one') ON CONFLICT DO NOTHING",
    "UPDATE pending_signups SET email = CASE email WHEN 'one' THEN 'two' ELSE 'one' END WHERE id = 's{key}'",
)


@pytest.mark.parametrize("rounds", [5, pytest.param(20, marks=pytest.mark.chaos)])
async def test_a_relay_that_is_killed_at_random_moments_loses_nothing(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, rounds: int
) -> None:
    await make_primary(engine)
    rng = random.Random()
    done = asyncio.Event()
    feeds = [Feed(cosmos, mappings.named(name)) for name in ("Account", "PendingSignup")]
    writers = [asyncio.ensure_future(write(settings, seed, done)) for seed in range(WRITERS)]
    relays = await started(settings)
    try:
        for _ in range(rounds):
            pid = await one_more(relays)
            await asyncio.sleep(rng.uniform(0.2, 1))  # about the first 0.2 s are for its connections
            os.kill(pid, signal.SIGKILL)
            for feed in feeds:
                await feed.read()
    finally:
        done.set()
        await asyncio.gather(*writers)
        os.killpg(relays.pid, signal.SIGKILL)
        await relays.communicate()
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
    print(f"{rounds} kills, {delivered_by_the_killed} writes seen before the last, {last.stats.messages} left for it")


async def started(settings: Settings) -> Process:
    """Start the process that forks relays."""
    assert settings.postgres_dsn is not None
    assert settings.cosmos_key is not None
    environment = {
        **os.environ,
        "CROSSFEED_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "CROSSFEED_COSMOS_ENDPOINT": settings.require_cosmos(),
        "CROSSFEED_COSMOS_KEY": settings.cosmos_key.get_secret_value(),
        "CROSSFEED_COSMOS_DATABASE": settings.cosmos_database,
        "CROSSFEED_MAPPINGS": str(settings.mappings),
        "CROSSFEED_RELAY_PAGE_SIZE": "100",
        "CROSSFEED_RELAY_CONCURRENCY": "4",  # so that a pass takes a while, and most kills hit the middle of one
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.chaos.relay_process",
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def one_more(relays: Process) -> int:
    """Fork a relay and return its pid."""
    assert relays.stdin is not None
    assert relays.stdout is not None
    relays.stdin.write(b"\n")
    return int(await relays.stdout.readline())


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


async def written(engine: AsyncEngine) -> dict[str, list[Identity]]:
    """Every identity that has a message, by entity type."""
    found: dict[str, list[Identity]] = {}
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql("SELECT DISTINCT entity, partition_key, id FROM crossfeed.outbox")
        for entity, partition_key, id_ in map(tuple, result):
            found.setdefault(entity, []).append(Identity(entity, partition_key, id_))
    return found
