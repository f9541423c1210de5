"""A step whose process is told to stop while it drains writers: they may write again before it has ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.phases import PhaseState
from core.postgres.phases import read_phase
from tests.chaos.fleet import environment_of
from tests.integration.migration_steps import COSMOS, Town, quick_town
from tests.integration.relay_steps import run, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

# They have just been stopped: they look alive, and nothing will ever come out of them.
RELAY = """
    INSERT INTO crossfeed.relay (relay, name, lease_s, expires_at)
    VALUES (gen_random_uuid(), 'stopped', 60, clock_timestamp() + interval '60 s')
"""
MIRROR = """
    INSERT INTO crossfeed.feed_processor (processor, name, feeds, lease_s, expires_at)
    SELECT gen_random_uuid(), 'stopped', array_agg('mirror/' || name), 60, clock_timestamp() + interval '60 s'
    FROM unnest(ARRAY['Accounts', 'GameSessions', 'PendingSignups', 'UserProfiles']) AS name
"""


@pytest.fixture
def town(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Town:
    """An installation whose primary moves."""
    return quick_town(settings, engine, cosmos, mappings)


async def test_a_signal_during_a_drain_puts_everything_back(town: Town) -> None:
    await town.put(COSMOS)
    before = await town.row()
    await run(town.engine, RELAY, MIRROR)
    process = await asyncio.create_subprocess_exec(
        *(
            str(Path(sys.executable).with_name("crossfeed")),
            "phase",
            "advance",
            "--foreign-quiet",
            "0",
            "--settle",
            "0",
        ),
        env={**os.environ, **environment_of(town.settings)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    async def drains() -> bool:
        async with town.engine.connect() as connection:
            assert process.returncode is None, await process.communicate()
            return (await read_phase(connection)).state is PhaseState.DRAINING

    await until(drains, 40)
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert b"interrupted; crossfeed phase status says how it stands" in errors
    assert b"Traceback" not in errors
    assert await town.is_as_before(before.phase, before.epoch)
    assert await town.pending() is None
    last = await town.last()
    assert last.step == "cancelled"
