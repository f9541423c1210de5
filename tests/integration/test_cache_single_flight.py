"""However many ask at once for what is not cached, in however many processes: one of them asks the store."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.phases import Phase
from tests.chaos.fleet import environment_of
from tests.integration.relay_steps import make_primary, run, until, waits

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.valkey import EmbeddedValkey
    from core.settings import Settings

PROCESSES = 2
READERS = 1000
READER = Path(__file__).with_name("cache_reader.py")


async def scans(engine: AsyncEngine) -> int:
    """How often anybody has read accounts, as Postgres counted it by now."""
    async with engine.connect() as connection:
        counted = await connection.exec_driver_sql(
            "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'accounts'"
        )
        return int(counted.scalar_one())


async def start(settings: Settings, valkey: EmbeddedValkey) -> asyncio.subprocess.Process:
    told = environment_of(settings) | {"CROSSFEED_CACHE_URL": valkey.url, "CROSSFEED_CACHE_WAIT_MS": "10000"}
    told |= {"CROSSFEED_CACHE_TIMEOUT_MS": "5000", "CROSSFEED_LOG_LEVEL": "warning"}  # the machine is shared
    return await asyncio.create_subprocess_exec(
        *(sys.executable, READER, str(READERS // PROCESSES)),
        env=os.environ | told | {"PYTHONPATH": str(READER.parents[2])},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def test_a_thousand_readers_of_one_cold_key_in_several_processes_cause_one_load(
    settings: Settings, engine: AsyncEngine, valkey: EmbeddedValkey
) -> None:
    await make_primary(engine, Phase.POSTGRES_ONLY)
    await run(engine, "INSERT INTO accounts (id, email) VALUES ('hot', 'hot@example.org')")
    readers = await asyncio.gather(*(start(settings, valkey) for _ in range(PROCESSES)))
    for reader in readers:
        assert reader.stdout is not None
        assert await reader.stdout.readline() == b"ready\n"
    await engine.dispose()  # a session counts what it has read when it ends
    before = await scans(engine)
    async with engine.begin() as holding:  # the load takes so long that all of them are there
        await holding.exec_driver_sql("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.gather(*(reader.communicate(b"now\n") for reader in readers))
        await until(lambda: waits(engine))
        await asyncio.sleep(0.3)
    answers = await reading
    said = [json.loads(out) for out, _ in answers]
    assert [one["answers"] for one in said] == [["hot@example.org"]] * PROCESSES
    assert sum(one["loads"] for one in said) == 1
    assert sum(one["hits"] for one in said) == READERS - 1
    assert await scans(engine) - before == 1
