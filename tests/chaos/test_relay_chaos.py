"""Relays are killed, put to sleep and cut off, and both stores fail, while writers write: nothing is lost or reordered.

Checked on the change feed of all versions, which hides no intermediate state. CROSSFEED_CHAOS_SEED repeats a run's
plan (not its timing); CROSSFEED_CHAOS_SECONDS makes the long form longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from core.cosmos.client import CosmosStore, open_cosmos
from core.domain.mappings import MAPPINGS
from core.envelope import Ours, author_of
from core.events import subject_of
from core.local.cosmos.faults.client import FaultsClient
from core.local.cosmos_process import cosmos_process
from core.mappings import Mappings
from core.postgres.engine import open_engine
from core.postgres.held import read_held
from core.settings import Settings
from tests.chaos.fleet import Fleet, open_fleet, written
from tests.chaos.network import network
from tests.chaos.postgres_machine import postgres_machine
from tests.chaos.troubles import PROCESSES, RelayTroubles, splitter
from tests.chaos.versions import Versions
from tests.chaos.writers import Writers
from tests.integration.relay_steps import difference, letters, make_primary, until

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

LEASE_S = 1.0
SETTLED_WITHIN_S = 40.0
LONG_S = float(os.environ.get("CROSSFEED_CHAOS_SECONDS", "180"))


@dataclass
class Seen:
    """All versions of the two kinds of documents, and what Postgres holds."""

    engine: AsyncEngine
    mappings: Mappings
    states: list[Versions]
    events: Versions

    async def read(self) -> None:
        for versions in (*self.states, self.events):
            await versions.read()

    @property
    def versions(self) -> int:
        """How many there have been, of documents and events."""
        return sum(len(found) for of in (*self.states, self.events) for found in of.seen.values())

    async def differences(self) -> list[str]:
        """What the newest versions lack to be what Postgres holds."""
        await self.read()
        newest = {identity: found[-1] for versions in self.states for identity, found in versions.seen.items()}
        wrong = []
        for entity, identities in (await written(self.engine)).items():
            mapping = self.mappings.named(entity)
            async with self.engine.connect() as connection:
                held = await read_held(connection, mapping, identities)
            wrong += [found for item in held if (found := difference(mapping, item, newest.get(item.identity)))]
        return wrong + await self.missing_events()

    async def missing_events(self) -> list[str]:
        wrong = []
        for subject, last in (await self.counters()).items():
            numbers = [document["data"]["number"] for document in self.events.seen[subject]]
            if numbers != list(range(1, last + 1)):
                wrong.append(f"{subject}: events {_spans(numbers)} instead of 1-{last}")
        return wrong

    async def counters(self) -> dict[str, int]:
        """How many events each aggregate says it has had."""
        async with self.engine.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT id, display_name::int FROM accounts WHERE id LIKE 'e%%'")
            accounts = self.mappings.named("Account")
            return {subject_of(accounts.identity_of(id_, id_)): number for id_, number in map(tuple, rows)}


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(16.0, marks=pytest.mark.timeout(150)),
        pytest.param(LONG_S, marks=[pytest.mark.chaos, pytest.mark.timeout(LONG_S + 150)]),
    ],
)
async def test_whatever_happens_to_relays_and_stores_nothing_is_lost_and_nothing_goes_back(
    seconds: float, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CROSSFEED_CHAOS_SEED", random.randrange(2**31)))
    print(f"CROSSFEED_CHAOS_SEED={seed}")
    log = tmp_path / "relays.log"
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
            FaultsClient(endpoint, key) as faults,
            network(urlsplit(machine.dsn).port or 0) as between,
            open_fleet(between.reached_by(settings), log, **_environment()) as fleet,
        ):
            seen = await _prepared(engine, store, settings)
            await faults.set_seed(seed)
            for _ in range(PROCESSES):
                await fleet.start()
            writers = Writers(machine, seed)
            writing = asyncio.ensure_future(writers.run())
            troubles = RelayTroubles(
                seed,
                fleet=fleet,
                machine=machine,
                network=between,
                engine=engine,
                faults=faults,
                lease_s=LEASE_S,
                split=splitter(faults, seed),
            )
            await troubles.make(seconds)
            writers.stop.set()
            await writing
            took_s = await _settled(seen)
            _report(troubles, writers, seen, took_s)
            assert fleet.crashes() == []
            # Who starts while Postgres is away gives up; whoever runs goes on, and none believes that it was set back.
            assert [
                ending for ending in fleet.endings() if not ending.startswith(("checking ", "cannot connect"))
            ] == []
            await _are_cut(engine, troubles.slots[-1])
            await _check(seen, writers)
            await until(partial(_are_ready, fleet), 20)
            versions = seen.versions
            assert await seen.differences() == [], "something came late"
            assert seen.versions == versions, "a document was written again in silence"


async def _are_ready(fleet: Fleet) -> bool:
    """Whether as many relays as there should be say of themselves that messages flow."""
    return await fleet.ready() >= PROCESSES


async def _are_cut(engine: AsyncEngine, slots: int) -> None:
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT carries, count(*) FROM crossfeed.slot GROUP BY 1 ORDER BY 1")
        assert list(map(tuple, rows)) == [("events", slots), ("states", slots)]


def _environment() -> dict[str, str]:
    """Short leases, small pages: most of what happens, happens in the middle of a pass."""
    return {
        "CROSSFEED_RELAY_LEASE_S": str(LEASE_S),
        "CROSSFEED_RELAY_PAGE_SIZE": "100",
        "CROSSFEED_RELAY_CONCURRENCY": "8",
        "CROSSFEED_HTTP_PORT": "0",
    }


async def _prepared(engine: AsyncEngine, store: CosmosStore, settings: Settings) -> Seen:
    mappings = Mappings(MAPPINGS)
    await store.provision(mappings)
    await make_primary(engine)
    states = []
    for name in ("Account", "PendingSignup"):
        mapping = mappings.named(name)
        states.append(Versions(store.container(mapping), mapping.identity))
    events = Versions(store.container_named(settings.events_container), lambda document: document["subject"])
    for versions in (*states, events):
        await versions.open()
    return Seen(engine, mappings, states, events)


async def _settled(seen: Seen) -> float:
    """Wait until the relays that are left have delivered everything; return the seconds that took."""
    begun = time.monotonic()
    while wrong := await seen.differences():
        if time.monotonic() - begun > SETTLED_WITHIN_S:
            pytest.fail(f"{len(wrong)} differences, among them {wrong[:10]}")
        await asyncio.sleep(0.2)
    return time.monotonic() - begun


async def _check(seen: Seen, writers: Writers) -> None:
    accounts = {identity.id for identity in seen.states[0].seen}
    assert writers.acknowledged <= accounts, "a commit that was acknowledged is nowhere"
    for versions in seen.states:
        assert versions.deleted == [], "deletes are tombstones"
        for identity, found in versions.seen.items():
            authors = [author_of(document) for document in found]
            stamps = [author.stamp for author in authors if isinstance(author, Ours)]
            assert len(stamps) == len(authors), f"{identity}: a version that is not ours"
            assert stamps == sorted(set(stamps)), f"{identity} went back, or was written twice: {stamps}"
    assert await letters(seen.engine) == []


def _report(troubles: RelayTroubles, writers: Writers, seen: Seen, took_s: float) -> None:
    events = sum(map(len, seen.events.seen.values()))
    print(f"{troubles.made}, {troubles.ended_by_themselves} relays ended by themselves, slots {troubles.slots}")
    print(f"{len(writers.acknowledged)} once, {seen.versions} versions, {events} of events, settled in {took_s:.1f} s")


def _spans(numbers: list[int]) -> str:
    """Spell a sequence shortly: 1-4 6-9."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return " ".join(f"{first}-{last}" for first, last in spans)
