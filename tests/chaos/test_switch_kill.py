"""`kill -9` and SIGTERM of the process that moves the primary, at random moments while an application writes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import orjson
import pytest

from core.phases import Phase, PhaseState
from core.postgres.switch_record import SwitchStep
from tests.chaos.fleet import ROOT, environment_of
from tests.integration.migration_steps import COSMOS, POSTGRES, Town, quick_town
from tests.integration.relay_steps import until

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

KILLS = 10
TERMS = 4
LATEST_S = 1.2
"""How long after the first sign of the drain it is killed at the latest: most are through by then."""


async def command(town: Town, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from functions.cli import main; main()", "phase", *arguments, "--json"),
        cwd=ROOT,
        env={**os.environ, **environment_of(town.settings)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def outcome(town: Town, *arguments: str) -> str:
    """Run a command to its end; return how its report says that it ended."""
    process = await command(town, *arguments)
    printed, said = await process.communicate()
    assert printed, said.decode()
    return str(orjson.loads(printed)["outcome"])


async def interrupted(town: Town, arguments: Sequence[str], number: signal.Signals, after_s: float) -> int | None:
    """Run a command, and send it a signal some time after it has begun to drain; return its exit code."""
    process = await command(town, *arguments)
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if b'"switch.drained"' in line:
            break
    reading = asyncio.ensure_future(process.communicate())
    await asyncio.sleep(after_s)
    if process.returncode is None:
        process.send_signal(number)
    await reading
    return process.returncode


@pytest.mark.timeout(900)
@pytest.mark.chaos  # test_switch_crashes.py has a short form, which stops at each step
async def test_a_switch_that_is_killed_at_random_moments_loses_nothing_and_is_gone_on_with(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    town, rng = quick_town(settings, engine, cosmos, mappings), random.Random()
    left: set[str] = set()
    await town.put(COSMOS)
    async with town.relaying(), town.mirroring():
        async with town.writing() as acknowledged:
            for kill in range(KILLS):
                here = await town.row()
                way = ("advance", "--foreign-quiet", "0") if here.phase is COSMOS else ("back",)
                await interrupted(town, [*way, "--settle", "0.5"], signal.SIGKILL, rng.uniform(0, LATEST_S))
                pending = await town.pending()
                row = await town.row()
                assert (row.state is PhaseState.DRAINING) == (
                    pending is not None and pending.step is SwitchStep.DRAINING
                )
                left.add("nothing" if pending is None else pending.step.value)
                if pending is None:
                    continue
                if pending.step is SwitchStep.DRAINING and kill % 2:
                    assert await outcome(town, "cancel") == "cancelled"
                    assert await town.is_as_before(here.phase, here.epoch)
                else:
                    assert await outcome(town, "resume") == "done"
                    assert (await town.row()).epoch == here.epoch + 1
                await until(partial(has_grown, acknowledged, len(acknowledged)), timeout_s=120)
        assert await town.pending() is None
        assert "draining" in left, left
        await until(lambda: both_hold(town, acknowledged))
    assert await town.accounts() == await town.documents()


def has_grown(acknowledged: Sequence[str], before: int) -> bool:
    return len(acknowledged) > before


async def both_hold(town: Town, ids: Sequence[str]) -> bool:
    return set(ids) <= await town.accounts() and set(ids) <= await town.documents()


@pytest.mark.timeout(900)
@pytest.mark.chaos  # test_switch.py has a short form, which cancels a task
async def test_a_switch_that_is_told_to_stop_while_it_drains_puts_everything_back(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    town, rng = quick_town(settings, engine, cosmos, mappings), random.Random()
    await town.put(POSTGRES)
    # A relay that lives and carries nothing: the switch waits until it is stopped.
    pinned = replace(town, settings=town.settings.model_copy(update={"phase": Phase.POSTGRES_ONLY}))
    async with pinned.relaying(), town.mirroring():
        for number in range(TERMS):
            told = (signal.SIGTERM, signal.SIGINT)[number % 2]
            assert await interrupted(town, ["back"], told, rng.uniform(0, 0.3)) == 128 + told
            assert await town.is_as_before(POSTGRES, 2)
            assert (await town.last()).step is SwitchStep.CANCELLED
    await town.add("a")
