"""Real processes beside a script with the bare SDK: Postgres follows it, and overrules it once it is the primary."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from core.content import content_hash
from core.domain.game_session import GameSession
from core.domain.mappings import GAME_SESSIONS
from core.envelope import Ours, author_of, is_deleted
from core.phases import Phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.e2e import foreign_writer
from tests.integration.foreign_steps import documents, kept, rows, same, unresolved
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import letters, until
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.integration.foreign_steps import Sessions

CROSSFEED = ("-c", "from functions.cli import main; main()")
RECONCILE = (*CROSSFEED, "reconcile", "--container", "GameSessions", "--json")
PATIENCE_S = 60.0
KEYS = [(account, id_) for account in foreign_writer.ACCOUNTS for id_ in foreign_writer.IDS]


def environment_of(settings: Settings) -> dict[str, str]:
    assert settings.postgres_dsn is not None
    assert settings.cosmos_key is not None
    others = {name: value for name, value in os.environ.items() if not name.startswith("CROSSFEED_")}
    return others | {
        "CROSSFEED_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "CROSSFEED_COSMOS_ENDPOINT": settings.require_cosmos(),
        "CROSSFEED_COSMOS_KEY": settings.cosmos_key.get_secret_value(),
        "CROSSFEED_COSMOS_DATABASE": settings.cosmos_database,
        "CROSSFEED_MAPPINGS": str(settings.mappings),
        "CROSSFEED_RECONCILE_LAG_S": "0.2",
        "CROSSFEED_RECONCILE_MAX_REMOVED_SHARE": "1",
        foreign_writer.KEY: settings.cosmos_key.get_secret_value(),
    }


async def output_of(settings: Settings, *arguments: str) -> Any:
    """Run a program to its end, and read the JSON that it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environment_of(settings), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


@asynccontextmanager
async def running(settings: Settings, *commands: str) -> AsyncIterator[None]:
    """Run processes of ours meanwhile."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, *CROSSFEED, command, env=environment_of(settings), stderr=asyncio.subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [await process.wait() for process in processes] == [0] * len(processes)


async def write(settings: Settings, seed: int, writes: int) -> Sessions:
    """Run the script; return what it has left, tombstones apart."""
    arguments = (settings.require_cosmos(), settings.cosmos_database, str(seed), str(writes))
    left = await output_of(settings, "-m", "tests.e2e.foreign_writer", *arguments)
    return {(one["accountId"], one["id"]): one for one in left if not is_deleted(one)}


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_postgres_follows_a_script_with_the_bare_sdk_and_then_overrules_it(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    steps = Steps(engine, cosmos, mappings, GAME_SESSIONS)
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    async with running(settings, "mirror", "relay"):
        left = await write(settings, seed=1, writes=80)
        await until(lambda: _has(steps, left), PATIENCE_S)
        await output_of(settings, *RECONCILE)  # what was deleted for good shows in no feed
        assert same(await rows(steps, KEYS), left)
        assert await letters(engine) == []

        await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
        for key in list(left)[::3]:
            await play(engine, mappings, key)
        ours = await rows(steps, KEYS)
        left = await write(settings, seed=2, writes=50)
        others = unresolved(left, ours, set()).values()
        rogue = [document for document in others if not isinstance(author_of(document), Ours)]
        assert rogue
        await output_of(settings, *RECONCILE)

        async def healed() -> bool:
            found = await documents(steps, KEYS)
            return found.keys() >= ours.keys() and not unresolved(found, ours, await kept(engine))

        await until(healed, PATIENCE_S)
        assert same(await rows(steps, KEYS), ours)
    assert (await kept(engine)).issuperset(map(content_hash, rogue))


async def _has(steps: Steps, left: Sessions) -> bool:
    found = await rows(steps, KEYS)
    return same({key: content for key, content in found.items() if key in left}, left)


async def play(engine: AsyncEngine, mappings: Mappings, key: tuple[str, str]) -> None:
    async with PostgresUnitOfWork(engine, mappings) as work:
        session = await work[GameSession].get_by_id(key[1], partition_key=key[0])
        assert session is not None
        session.scene_count += 1
        await work[GameSession].update(session)
        await work.commit()
