"""Clients write and read while the primary walks through the phases, and everything that can be killed is killed.

What was acknowledged is there or was superseded, nobody who reads the primary sees it go back, deletes stay, and both
stores are equal in the end. CROSSFEED_CHAOS_SEED plays the history of one seed again: its plan, not its timing.
CROSSFEED_CHAOS_SECONDS makes the long form shorter or longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from core.cosmos.client import open_cosmos
from core.local.cosmos.faults.client import FaultsClient
from core.postgres.engine import open_engine
from core.settings import Settings
from tests.chaos.history_fleet import open_forge
from tests.chaos.history_plan import BRIEF, Plan, draw
from tests.chaos.history_run import LEASE_S, World, play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from core.mappings import Mappings
    from tests import stores
    from tests.chaos.history_fleet import Forge

LONG_S = float(os.environ.get("CROSSFEED_CHAOS_SECONDS", "1500"))
AT_LEAST = round(40 * min(1.0, LONG_S / 1500))
AT_ONCE = 2
GIVEN = os.environ.get("CROSSFEED_CHAOS_SEED")


class Stage:
    """Where histories are played, each with stores of its own."""

    def __init__(  # noqa: PLR0913, PLR0917 - what they share
        self,
        postgres: stores.PostgresServer,
        copies: stores.Copies,
        cosmos: stores.CosmosServer,
        mappings: Mappings,
        forge: Forge,
        directory: Path,
    ) -> None:
        self._postgres = postgres
        self._copies = copies
        self._cosmos = cosmos
        self._mappings = mappings
        self._forge = forge
        self._directory = directory

    async def play(self, plan: Plan) -> str:
        """Play a history, return its story; fail if anything was wrong with it, and leave its logs."""
        directory = self._directory / f"history-{plan.seed}-{uuid.uuid4().hex[:8]}"
        directory.mkdir()
        async with self._world() as world:
            result = await play(plan, world, self._forge, directory)
        print(result.story)
        if result.violations:
            first = "\n".join([*result.violations[:10], "The operator:", *result.commands, str(directory)])
            pytest.fail(f"CROSSFEED_CHAOS_SEED={plan.seed}: {len(result.violations)} violations, {first}")
        shutil.rmtree(directory)
        return result.story

    @asynccontextmanager
    async def _world(self) -> AsyncIterator[World]:
        name = f"history_{uuid.uuid4().hex}"
        await self._copies.create(name)
        settings = Settings.load(
            postgres_dsn=urlsplit(self._postgres.dsn)._replace(path=f"/{name}").geturl(),
            cosmos_endpoint=self._cosmos.endpoint,
            cosmos_key=self._cosmos.key,
            cosmos_database=name,
            mappings="core.domain.mappings:MAPPINGS",
        )
        try:
            async with (
                open_engine(settings) as engine,
                open_cosmos(settings) as store,
                FaultsClient(self._cosmos.endpoint, self._cosmos.key) as faults,
            ):
                await store.provision(self._mappings)
                yield World(settings, self._mappings, engine, store, faults)
        finally:
            await self._copies.drop(name)


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
async def test_no_acknowledged_write_is_lost_in_any_history(stage: Stage) -> None:
    begun = time.monotonic()
    played = 0

    async def play_on() -> None:
        nonlocal played
        while time.monotonic() - begun < LONG_S or played < AT_LEAST:
            await stage.play(draw(random.randrange(2**31), lease_s=LEASE_S))
            played += 1

    if GIVEN:
        await stage.play(draw(int(GIVEN), lease_s=LEASE_S))
        return
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(play_on())
    print(f"{played} histories in {time.monotonic() - begun:.0f} s")
