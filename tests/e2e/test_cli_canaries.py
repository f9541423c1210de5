"""Real relays and mirrors, each under a role with its rights and no others, keep canaries crossing, whoever dies."""

from __future__ import annotations

import asyncio
import signal
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest

from core.cosmos.feed import feed_ranges
from core.phases import Phase
from core.postgres.grants import grant
from core.postgres.phases import open_phase
from core.postgres.rights import Process
from tests.e2e.test_cli_processes import environment_of, start
from tests.integration.canary_steps import have_crossed, ids_of_slots, known, rows
from tests.integration.relay_steps import make_primary, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

EVERY_S = 0.2
LEASE_S = 1.0


@pytest.fixture
async def starting(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> AsyncIterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process under a role of its own."""
    roles = {"relay": Process.RELAY, "mirror": Process.MIRROR}
    started: list[subprocess.Popen[str]] = []
    names = {name: f"{name}_{uuid.uuid4().hex}" for name in roles}
    for name, process in roles.items():
        await rows(engine, f"CREATE ROLE {names[name]} LOGIN PASSWORD 'role'")
        async with engine.begin() as connection:
            await grant(connection, names[name], [process], mappings)
    brief = {"RELAY_LEASE_S": LEASE_S, "MIRROR_LEASE_S": LEASE_S, "CANARY_EVERY_S": EVERY_S}

    def begin(name: str) -> subprocess.Popen[str]:
        dsn = psycopg.conninfo.make_conninfo(settings.require_postgres(), user=names[name], password="role")
        environment = environment_of(settings) | {"CROSSFEED_POSTGRES_DSN": dsn}
        environment |= {f"CROSSFEED_{key}": str(value) for key, value in brief.items()}
        started.append(start(name, settings=environment))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.communicate()
    for name in names.values():
        await rows(engine, f"DROP OWNED BY {name}")
        await rows(engine, f"DROP ROLE {name}")


async def _ages(engine: AsyncEngine) -> list[float]:
    return [one.age_s for one in (await known(engine)).values()]


async def _is_fresh(engine: AsyncEngine) -> bool:
    ages = await _ages(engine)
    return len(ages) == 32 and max(ages) < LEASE_S


async def _is_old(engine: AsyncEngine) -> bool:
    return min(await _ages(engine)) > 2 * LEASE_S


async def test_relay_and_mirror_have_them_cross_each_in_its_phase(
    starting: Callable[[str], subprocess.Popen[str]], mappings: Mappings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    processes = starting("mirror"), starting("relay")
    await until(lambda: have_crossed(engine, 32), 60)
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    ranges = 0
    for name in mappings.containers:
        ranges += len(await feed_ranges(cosmos.container_named(name)))
    await until(lambda: have_crossed(engine, ranges), 60)
    for process in processes:
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=20)[1]
        assert process.returncode == 0


@pytest.mark.chaos
async def test_canaries_of_slots_outlive_a_relay_that_is_killed_and_grow_old_with_one_that_sleeps(
    starting: Callable[[str], subprocess.Popen[str]], mappings: Mappings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    await make_primary(engine)
    first, second = starting("relay"), starting("relay")
    await until(lambda: have_crossed(engine, 32), 60)
    first.kill()
    await asyncio.sleep(2 * LEASE_S)
    await until(lambda: _is_fresh(engine), 30)
    second.send_signal(signal.SIGSTOP)
    await until(lambda: _is_old(engine), 30)
    second.send_signal(signal.SIGCONT)
    await until(lambda: _is_fresh(engine), 30)
    assert len(set(await ids_of_slots(cosmos, mappings))) == 32
