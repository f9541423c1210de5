"""Measures what the read cache saves who reads by key, and what it costs whose entry is not there.

One reader, through `Crossfeed`, as an application reads: a unit of work, `get_by_id`, a rest until the next request.
Without the cache that is the Postgres repository; with it a miss asks both servers, and fills behind its answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from itertools import count
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Final

import psycopg
import redis
from pydantic import SecretStr

from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.mappings import MAPPINGS
from core.local.postgres import EmbeddedPostgres
from core.local.valkey import EmbeddedValkey
from core.phases import Phase
from core.postgres.engine import open_engine
from core.settings import Settings
from tests.bench.wire import WrongAnswerError
from tests.integration.relay_steps import make_primary
from tests.stores import install, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENTS: Final = 20_000
"""So many that no round of misses reads one twice."""
HOT: Final = 200
"""How many of them are read again and again for hits."""
KINDS: Final = 3
"""What a round's time is shared by: reads without the cache, misses, hits."""
REST_S: Final = 0.002
MOST: Final = 0.99
"""Which share of reads must have gone the way that is measured: the machine may stall a call of Redis now and then."""
_WRITE: Final = """
    INSERT INTO accounts (id, email, auth0_user_id, display_name, completed_scenario_ids)
    SELECT 'a' || n, 'somebody' || n || '@example.org', 'auth0|' || md5(n::text), 'Somebody of the bench ' || n,
        jsonb_build_array(md5(n::text), md5((n + 1)::text), md5((n + 2)::text))
    FROM generate_series(0, %s) n
"""


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return the medians of a read without the cache and of a hit, and a miss as a multiple of the former.

    Raises:
        WrongAnswerError: a read returned another account, or did not go the way that was measured.

    """
    uncached: list[float] = []
    hit: list[float] = []
    miss: list[float] = []
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(within=memory()))
        valkey = stack.enter_context(EmbeddedValkey())
        admin = stack.enter_context(redis.Redis.from_url(valkey.url))
        plain = await _prepared(postgres)
        # A call of Redis that the machine stalls is to be measured, not left for a read of the store.
        patient = {"cache_url": SecretStr(valkey.url), "cache_timeout_ms": 5000, "cache_wait_ms": 5000}
        cached = plain.model_copy(update=patient)
        without = await stack.enter_async_context(Crossfeed.open(plain, MAPPINGS))
        through = await stack.enter_async_context(Crossfeed.open(cached, MAPPINGS))
        assert through.cache is not None
        each_s = seconds / rounds / KINDS
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            uncached.append(median(await _reading(without, each_s, _all())))
            admin.flushall()
            before = through.cache.misses
            took = await _reading(through, each_s, _all())
            _expect(through.cache.misses - before, len(took), "misses")
            miss.append(median(took))
            await _reading(through, inf, iter(range(HOT)))
            before = through.cache.hits
            took = await _reading(through, each_s, (turn % HOT for turn in count()))
            _expect(through.cache.hits - before, len(took), "hits")
            hit.append(median(took))
    return {
        "uncached_p50_ms": round(median(uncached) * 1000, 3),
        "hit_p50_ms": round(median(hit) * 1000, 3),
        "miss_p50_ms": round(median(miss) * 1000, 3),
        "overhead_on_miss": round(median(one / other for one, other in zip(miss, uncached, strict=True)), 2),
    }


async def _prepared(postgres: EmbeddedPostgres) -> Settings:
    """Return the settings of a database with accounts, Postgres being the primary and alone."""
    settings = Settings.load(
        postgres_dsn=await postgres.create_database("bench"),
        cosmos_endpoint="http://127.0.0.1:9/",  # in this phase nobody asks it
        mappings="core.domain.mappings:MAPPINGS",
    )
    await install(settings.require_postgres())
    async with open_engine(settings) as engine:
        await make_primary(engine, Phase.POSTGRES_ONLY)
    async with await psycopg.AsyncConnection.connect(settings.require_postgres(), autocommit=True) as connection:
        await connection.execute(_WRITE, [DOCUMENTS - 1])
        await connection.execute("VACUUM ANALYZE accounts")
    return settings


def _all() -> Iterator[int]:
    """Yield each document once, those that lie side by side far apart."""
    return ((turn * 7919) % DOCUMENTS for turn in range(DOCUMENTS))


def _expect(counted: int, reads: int, what: str) -> None:
    """Refuse a figure of reads that did not go the way that it is about."""
    if counted < reads * MOST:
        raise WrongAnswerError(f"of {reads} reads only {counted} were {what}")


async def _reading(db: Crossfeed, seconds: float, numbers: Iterator[int]) -> list[float]:
    """Read for so many seconds, or until there are no numbers left; return the seconds that each read took."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    for number in numbers:
        began = time.perf_counter()
        async with db.unit_of_work() as work:
            account = await work[Account].get_by_id(f"a{number}")
        ended = time.perf_counter()
        if account is None or account.email != f"somebody{number}@example.org":
            raise WrongAnswerError(f"asked for a{number}, got {account and account.id}")
        took.append(ended - began)
        await asyncio.sleep(REST_S)
        if ended > until:
            break
    return took
