"""Constant load for minutes: the relay's memory and the tables' sizes stay flat, and the log has no dead rows.

CROSSFEED_SOAK_SECONDS says for how long (600), CROSSFEED_SOAK_COMMITS how many commits a second there are (200).
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.local.cosmos_process import cosmos_process
from core.mappings import Mappings
from core.postgres.engine import open_engine
from core.settings import Settings
from outbox.status import read_status
from tests.chaos.fleet import open_fleet
from tests.chaos.postgres_machine import PostgresMachine, postgres_machine
from tests.integration.relay_steps import differences, letters, make_primary, run, until

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

SECONDS = float(os.environ.get("CROSSFEED_SOAK_SECONDS", "600"))
COMMITS_PER_S = int(os.environ.get("CROSSFEED_SOAK_COMMITS", "200"))
DOCUMENTS = 1_000
SAMPLES = 60
ROOM = 1.1
"""By how much the last third may exceed the second one: the noise of an allocator, and of when a partition goes."""

# Of every table and index of ours; the log's partitions are summed up.
_SIZES = """
    SELECT CASE WHEN c.relname LIKE 'outbox%%' THEN 'outbox' ELSE c.relname END,
        sum(pg_total_relation_size(c.oid))::bigint
    FROM pg_class c WHERE c.relnamespace = 'crossfeed'::regnamespace AND c.relkind = 'r' GROUP BY 1
"""
_DEAD = """
    SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_all_tables
    WHERE schemaname = 'crossfeed' AND relname LIKE 'outbox\\_%%' AND relname <> 'outbox_partition'
"""
_SKIP_AHEAD = """
    SELECT setval('crossfeed.outbox_seq', (SELECT max(until_seq) - %(left)s FROM crossfeed.outbox_partition))
"""


@dataclass(frozen=True)
class Sample:
    """What is in use at a moment, in bytes by name; dead rows of the log; the age of the oldest message in seconds."""

    sizes: dict[str, int]
    dead: int
    oldest_s: float


@pytest.mark.chaos
@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 180)
async def test_under_constant_load_nothing_grows(tmp_path: Path) -> None:
    # Many partitions come and go; each lasts for longer than the relay takes to look after them.
    partition = max(1000, int(COMMITS_PER_S * max(25, SECONDS / 20)))
    environment = {
        "CROSSFEED_OUTBOX_PARTITION_SIZE": str(partition),
        "CROSSFEED_OUTBOX_KEEP_S": str(SECONDS / 20),
        "CROSSFEED_LOG_LEVEL": "warning",
    }
    async with postgres_machine() as machine, cosmos_process() as (endpoint, key):
        settings = Settings.load(
            postgres_dsn=machine.dsn,
            cosmos_endpoint=endpoint,
            cosmos_key=key,
            cosmos_database="soak",
            mappings="core.domain.mappings:MAPPINGS",
        )
        async with (
            open_engine(settings) as engine,
            open_cosmos(settings) as store,
            open_fleet(settings, tmp_path / "relays.log", **environment) as fleet,
        ):
            await store.provision(Mappings(MAPPINGS))
            await make_primary(engine)
            await run(engine, f"INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(0, {DOCUMENTS - 1}) n")
            async with engine.begin() as connection:  # almost at the end of what the migration made
                await connection.exec_driver_sql(_SKIP_AHEAD, {"left": partition})
            relay = await fleet.start()
            stop = asyncio.Event()
            writing = asyncio.ensure_future(_write(machine, stop))
            samples: list[Sample] = []
            for _ in range(SAMPLES):
                await asyncio.sleep(SECONDS / SAMPLES)
                samples.append(await _sample(engine, relay))
            stop.set()
            commits = await writing
            _report(samples, commits)
            assert fleet.reap() == []
            assert fleet.crashes() == []

            async def is_empty() -> bool:
                async with engine.connect() as connection:
                    return (await read_status(connection)).backlog.messages == 0

            await until(is_empty)
            identities = [ACCOUNTS.identity_of(f"a{number}", f"a{number}") for number in range(DOCUMENTS)]
            assert await differences(engine, store, ACCOUNTS, identities) == []
            assert await letters(engine) == []
    assert commits > COMMITS_PER_S * SECONDS * 0.8, "the load was not what was asked for"
    assert [sample.dead for sample in samples] == [0] * SAMPLES
    assert max(sample.oldest_s for sample in samples[SAMPLES // 3 :]) < 5
    _check_flat(samples)


def _check_flat(samples: list[Sample]) -> None:
    third = len(samples) // 3
    for name in samples[-1].sizes:
        # The mean: the log is a saw, and how high a tooth is seen depends on when one looks.
        second, last = (
            mean(sample.sizes.get(name, 0) for sample in part) for part in (samples[third:-third], samples[-third:])
        )
        assert last <= second * ROOM + 64 * 1024, (
            f"{name} grows: {second:,.0f} bytes in the second third, {last:,.0f} in the last"
        )


async def _write(machine: PostgresMachine, stop: asyncio.Event) -> int:
    """Commit so many times a second, one row each; return the commits."""
    rng = random.Random(0)
    commits = 0
    async with await machine.connect() as session:
        began = time.monotonic()
        while not stop.is_set():
            number = rng.randrange(DOCUMENTS)
            await session.execute("UPDATE accounts SET display_name = %s WHERE id = %s", [str(commits), f"a{number}"])
            commits += 1
            await asyncio.sleep(began + commits / COMMITS_PER_S - time.monotonic())
    return commits


async def _sample(engine: AsyncEngine, relay: int) -> Sample:
    async with engine.connect() as connection:
        sizes = {name: int(size) for name, size in map(tuple, await connection.exec_driver_sql(_SIZES))}
        dead = (await connection.exec_driver_sql(_DEAD)).scalar_one()
        oldest_s = (await read_status(connection)).backlog.oldest_s or 0.0
    process = await asyncio.create_subprocess_exec("ps", "-o", "rss=", "-p", str(relay), stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    return Sample({"the relay's memory": int(said) * 1024, **sizes}, dead, oldest_s)


def _report(samples: list[Sample], commits: int) -> None:
    print(f"{commits} commits, oldest message {max(sample.oldest_s for sample in samples):.2f} s")
    for name in samples[-1].sizes:
        sizes = [sample.sizes.get(name, 0) for sample in samples]
        picked = [f"{sizes[index] / 2**20:.2f}" for index in range(0, len(sizes), max(1, len(sizes) // 6))]
        print(f"{name}: MiB {' '.join(picked)}")
