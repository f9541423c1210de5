"""Mirrors are killed, put to sleep and cut off, ranges split, stores fail and clocks step back while writers write.

Nothing is lost, no row goes back, and dead letters are exactly what is poisonous. CROSSFEED_CHAOS_SEED repeats a run's
plan (not its timing); CROSSFEED_CHAOS_SECONDS makes the long form longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from core.cosmos.client import CosmosStore, open_cosmos
from core.domain.account import Account
from core.domain.mappings import MAPPINGS
from core.envelope import is_deleted
from core.local.cosmos.faults.client import FaultsClient
from core.local.cosmos_process import cosmos_process
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.dead_letter_search import Selection
from core.postgres.engine import open_engine
from core.settings import Settings
from functions.bootstrap import bootstrap
from functions.letters import Act, act_on
from tests.chaos.fleet import Fleet, open_fleet
from tests.chaos.mirror_history import WITNESS, not_followed, went_back
from tests.chaos.mirror_writers import ANTIDOTE, CONSTRAINT, POISON, MirrorWriters
from tests.chaos.network import network
from tests.chaos.postgres_machine import postgres_machine
from tests.chaos.troubles import PROCESSES, MirrorTroubles, splitter
from tests.chaos.versions import Versions
from tests.integration.relay_steps import letters, make_primary, run, until

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.identity import Identity
    from functions.bootstrap import Application

LEASE_S = 1.0
SETTLED_WITHIN_S = 60.0
LONG_S = float(os.environ.get("CROSSFEED_CHAOS_SECONDS", "180"))


@dataclass
class World:
    """All versions of the accounts, and what Postgres makes of them."""

    engine: AsyncEngine
    mappings: Mappings
    accounts: Versions

    @property
    def newest(self) -> dict[Identity, Document]:
        return {identity: found[-1] for identity, found in self.accounts.seen.items()}

    @property
    def poisonous(self) -> set[Identity]:
        return {
            identity
            for identity, document in self.newest.items()
            if not is_deleted(document) and document.get("DisplayName") == POISON
        }

    async def differences(self, spared: set[Identity]) -> list[str]:
        await self.accounts.read()
        return await not_followed(self.engine, self.mappings.of(Account), self.newest, spared)

    async def wrong_letters(self) -> list[str]:
        """Say which dead letters there are that should not be, or the other way round."""
        await self.accounts.read()
        wanted = {identity.id for identity in self.poisonous}
        found = {str(row[2]): row for row in await letters(self.engine)}
        return [f"{found[id_]}" for id_ in found.keys() - wanted] + [
            f"no letter of {id_}" for id_ in wanted - found.keys()
        ]


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(10.0, marks=pytest.mark.timeout(150)),
        pytest.param(LONG_S, marks=[pytest.mark.chaos, pytest.mark.timeout(LONG_S + 200)]),
    ],
)
async def test_whatever_happens_to_mirrors_and_stores_rows_follow_and_only_poison_is_dead(
    seconds: float, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CROSSFEED_CHAOS_SEED", random.randrange(2**31)))
    print(f"CROSSFEED_CHAOS_SEED={seed}")
    log = tmp_path / "mirrors.log"
    async with postgres_machine() as machine, cosmos_process() as (endpoint, key):
        settings = Settings.load(
            postgres_dsn=machine.dsn,
            cosmos_endpoint=endpoint,
            cosmos_key=key,
            cosmos_database="chaos",
            mappings="core.domain.mappings:MAPPINGS",
        )
        async with (
            open_engine(settings) as engine,
            open_cosmos(settings) as store,
            open_cosmos(settings) as theirs,
            FaultsClient(endpoint, key) as faults,
            network(urlsplit(machine.dsn).port or 0) as between,
            open_fleet(between.reached_by(settings), log, "mirror", **_environment()) as fleet,
        ):
            world, epoch = await _prepared(engine, store, settings)
            await faults.set_seed(seed)
            for _ in range(PROCESSES):
                await fleet.start()
            writers = MirrorWriters(theirs, world.mappings, epoch, seed)
            writing = asyncio.ensure_future(writers.run())
            troubles = MirrorTroubles(
                seed,
                fleet=fleet,
                machine=machine,
                network=between,
                faults=faults,
                lease_s=LEASE_S,
                split=splitter(faults, seed),
            )
            await troubles.make(seconds)
            writers.stop.set()
            await writing
            took_s = await _settled(partial(_as_it_should_be, world))
            print(f"{troubles.made}, {troubles.ended_by_themselves} ended by themselves, settled in {took_s:.1f} s")
            print(f"{writers.written} writes, {len(world.newest)} documents, {len(world.poisonous)} poisonous")
            _check_log(fleet)
            assert await went_back(engine, world.accounts) == []
            await _check_ranges(engine)
            await until(partial(_are_ready, fleet), 20)
            await _mend(settings, world)
            assert await went_back(engine, world.accounts) == []


async def _prepared(engine: AsyncEngine, store: CosmosStore, settings: Settings) -> tuple[World, int]:
    mappings = Mappings(MAPPINGS)
    await store.provision(mappings)
    row = await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await run(engine, WITNESS, CONSTRAINT)
    mapping = mappings.of(Account)
    accounts = Versions(store.container(mapping), mapping.identity)
    await accounts.open()
    return World(engine, mappings, accounts), row.epoch


def _environment() -> dict[str, str]:
    """Short leases, small pages: most of what happens, happens in the middle of a page."""
    return {
        "CROSSFEED_MIRROR_LEASE_S": str(LEASE_S),
        "CROSSFEED_MIRROR_PAGE_SIZE": "20",
        "CROSSFEED_MIRROR_POLL_MS": "20",
        "CROSSFEED_HTTP_PORT": "0",
    }


async def _as_it_should_be(world: World) -> list[str]:
    return [*await world.differences(world.poisonous), *await world.wrong_letters()]


async def _settled(look: Any) -> float:
    """Wait until nothing is wrong any more; return the seconds that took."""
    begun = time.monotonic()
    while wrong := await look():
        if time.monotonic() - begun > SETTLED_WITHIN_S:
            pytest.fail(f"{len(wrong)} differences, among them {wrong[:10]}")
        await asyncio.sleep(0.2)
    return time.monotonic() - begun


def _check_log(fleet: Fleet) -> None:
    assert fleet.crashes() == []
    # Who starts while Postgres is away gives up; whoever runs goes on.
    assert [ending for ending in fleet.endings() if not ending.startswith(("checking ", "cannot connect"))] == []


async def _check_ranges(engine: AsyncEngine) -> None:
    """The ranges of each feed are everything, without gap or overlap."""
    async with engine.connect() as connection:
        rows = list(
            map(
                tuple,
                await connection.exec_driver_sql(
                    "SELECT feed, lower_bound, upper_bound FROM crossfeed.feed_range ORDER BY feed, lower_bound"
                ),
            )
        )
    for feed in {row[0] for row in rows}:
        bounds = [row[1:] for row in rows if row[0] == feed]
        assert [lower for lower, _ in bounds] == ["", *(upper for _, upper in bounds[:-1])]
        assert bounds[-1][1] == "FF"
    assert len([row for row in rows if row[0] == "mirror/Accounts"]) > 1, "the split was not followed"


async def _are_ready(fleet: Fleet) -> bool:
    return await fleet.ready() >= PROCESSES


async def _mend(settings: Settings, world: World) -> None:
    """Drop the constraint that was broken, replay the dead letters: then everything is equal."""
    await run(world.engine, ANTIDOTE)
    async with bootstrap(settings) as application:

        async def connected() -> Application:
            return application

        replay = partial(act_on, Act.REPLAY, application.engine, Selection(), datetime.now(UTC) + timedelta(hours=1))
        report = await replay(None, connected, dry_run=False)
    assert report.refused == {}
    assert len(report.done) == len(world.poisonous) > 0
    assert await world.differences(set()) == []
    assert await letters(world.engine) == []
