"""Cosmos DB is killed and started again from its file, again and again, while relay, mirror and writers are at work."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from changefeed.processor import Processor
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.errors import ConflictError, OutcomeUnknownError, TransientError
from core.local.cosmos import EMULATOR_KEY
from core.phases import Phase
from outbox.relay import open_relay
from tests.integration.relay_steps import Feed, differences, letters, make_primary, run, until
from tests.stores import CosmosServer, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.settings import Settings
    from outbox.relay import Relay

KILLS = [1, pytest.param(6, marks=[pytest.mark.chaos, pytest.mark.timeout(120)])]


@pytest.fixture
def cosmos_server() -> CosmosServer:
    """Where a server will be: it is started by the tests, at the same port each time."""
    return CosmosServer(f"http://127.0.0.1:{free_port()}/", EMULATOR_KEY)


class Killed:
    """A server that keeps its documents in a file, as a process that is killed and started again at the same port."""

    def __init__(self, address: CosmosServer, file: Path) -> None:
        self._address = address
        self._file = file
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        port = self._address.endpoint.rstrip("/").rpartition(":")[2]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "core.local.cosmos", "--until-eof", "--port", port, "--file", str(self._file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert json.loads(await self._process.stdout.readline())["key"] == self._address.key

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.communicate()


@pytest.fixture
async def killed(cosmos_server: CosmosServer, tmp_path: Path) -> AsyncIterator[Killed]:
    server = Killed(cosmos_server, tmp_path / "account")
    await server.start()
    yield server
    await server.kill()


@pytest.mark.parametrize("kills", KILLS)
async def test_what_postgres_commits_arrives_once_and_in_order(  # noqa: PLR0913, PLR0917 - fixtures
    killed: Killed, settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, kills: int
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    feed = Feed(cosmos, accounts)
    relay = open_relay(settings.model_copy(update={"relay_concurrency": 2}), mappings, engine, cosmos)
    processor = Processor(engine, cosmos, mappings, poll_ms=10)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        moving = [tasks.create_task(relay.run(stop)), tasks.create_task(processor.run(stop))]
        for number in range(kills):
            published = relay.stats.published
            await run(
                engine,
                f"INSERT INTO accounts (id) SELECT '{number}-' || n FROM generate_series(1, 30) n",
                f"UPDATE accounts SET email = '{number}'",
                f"DELETE FROM accounts WHERE id = '{number}-9'",
            )
            await until(partial(_more, relay, published))
            await killed.kill()
            await run(engine, f"UPDATE accounts SET email = email || 'x' WHERE id < '{number}-5'")
            await killed.start()
            await feed.read()
            assert not any(task.done() for task in moving), "one of them has ended"
        # What failed while others were written was postponed, and is tried again a moment later.
        ids = [f"{number}-{n}" for number in range(kills) for n in range(1, 31)]
        identities = [accounts.identity_of(id_, id_) for id_ in ids]
        await until(partial(_same, engine, cosmos, accounts, identities))
        stop.set()
    await relay.drain()
    await processor.run_once()
    await feed.read()
    assert await differences(engine, cosmos, accounts, identities) == []
    feed.check_order()
    assert (relay.stats.dead_lettered, relay.stats.quarantined, processor.stats.quarantined) == (0, 0, 0)
    assert await letters(engine) == []


async def _same(
    engine: AsyncEngine, cosmos: CosmosStore, mapping: EntityMapping[Any], identities: Sequence[Identity]
) -> bool:
    return await differences(engine, cosmos, mapping, identities) == []


def _more(relay: Relay, published: int) -> bool:
    return relay.stats.published > published


@pytest.mark.parametrize("kills", KILLS)
async def test_what_cosmos_db_acknowledged_is_in_postgres(  # noqa: PLR0913, PLR0917 - fixtures
    killed: Killed, settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, kills: int
) -> None:
    epoch = (await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)).epoch
    processor = Processor(engine, cosmos, mappings, poll_ms=10)
    stop = asyncio.Event()
    told: dict[str, str] = {}
    possible: dict[str, set[str]] = defaultdict(set)

    async def write() -> None:
        for serial in count():
            if stop.is_set():
                return
            id_, name = f"a{serial % 7}", str(serial)
            try:
                async with CosmosUnitOfWork(cosmos, mappings, epoch) as work:
                    account = await work[Account].get_by_id(id_)
                    if account is None:
                        await work[Account].add(Account(id=id_, display_name=name))
                    else:
                        await work[Account].update(account.model_copy(update={"display_name": name}))
                    await work.commit()
            except (ConflictError, TransientError):
                await asyncio.sleep(0.01)
            except OutcomeUnknownError:
                possible[id_].add(name)
            else:
                told[id_] = name
                possible[id_] = {name}

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(processor.run(stop))
        tasks.create_task(write())
        for _ in range(kills):
            done = len(told), processor.stats.applied
            await until(lambda done=done: len(told) >= done[0] and processor.stats.applied > done[1] + 5)  # type: ignore[misc]
            await killed.kill()
            await killed.start()
            assert not following.done(), "the processor has ended"
        stop.set()
    await processor.run_once()
    async with engine.connect() as connection:
        rows = dict(map(tuple, await connection.exec_driver_sql("SELECT id, display_name FROM accounts")))
    assert rows.keys() >= told.keys()
    assert all(rows[id_] in names for id_, names in possible.items() if id_ in rows)
    assert await letters(engine) == []
