"""Clients write and read while the primary walks through the phases, and everything that can be killed is killed.

What was acknowledged is there or was superseded, nobody who reads the primary sees it go back, deletes stay, and both
stores are equal in the end. CROSSFEED_CHAOS_SEED plays the history of one seed again: its plan, not its timing.
CROSSFEED_CHAOS_SECONDS makes the long form shorter or longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.history_fleet import open_forge
from tests.chaos.history_plan import BRIEF, draw
from tests.chaos.history_run import LEASE_S
from tests.chaos.history_stage import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from core.mappings import Mappings
    from tests import stores

LONG_S = float(os.environ.get("CROSSFEED_CHAOS_SECONDS", "1500"))
AT_LEAST = round(40 * min(1.0, LONG_S / 1500))
AT_ONCE = 2
GIVEN = os.environ.get("CROSSFEED_CHAOS_SEED")


@pytest.fixture
async def stage(
    postgres_server: stores.PostgresServer,
    copies: stores.Copies,
    cosmos_server: stores.CosmosServer,
    mappings: Mappings,
    tmp_path: Path,
) -> AsyncIterator[Stage]:
    async with open_forge() as forge:
        yield Stage(postgres_server, copies, cosmos_server, mappings, forge, tmp_path)


@pytest.mark.timeout(600)
async def test_no_acknowledged_write_is_lost_in_three_short_histories(stage: Stage) -> None:
    seeds = [int(GIVEN)] * len(BRIEF) if GIVEN else [random.randrange(2**31) for _ in BRIEF]
    async with asyncio.TaskGroup() as group:
        for seed, walk in zip(seeds, BRIEF, strict=True):
            group.create_task(stage.play(draw(seed, walk, lease_s=LEASE_S)))


@pytest.mark.chaos
@pytest.mark.timeout(4 * LONG_S + 600)
async def test_no_acknowledged_write_is_lost_in_any_history(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    played = 0

    async def play_on() -> None:
        nonlocal played
        while time.monotonic() - begun < LONG_S or played < AT_LEAST:
            story = await stage.play(draw(random.randrange(2**31), lease_s=LEASE_S))
            played += 1
            with capsys.disabled():
                print(f"\nhistory {played}, after {time.monotonic() - begun:.0f} s: {story}", end="", flush=True)

    if GIVEN:
        await stage.play(draw(int(GIVEN), lease_s=LEASE_S))
        return
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(play_on())
    with capsys.disabled():
        print(f"\n{played} histories in {time.monotonic() - begun:.0f} s")
