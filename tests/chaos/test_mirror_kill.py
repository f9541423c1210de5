"""`kill -9` of `crossfeed mirror` at random moments while writers write: nothing lost, nothing back, nothing dead."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from changefeed.processor import Processor
from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS, PENDING_SIGNUPS
from core.domain.pending_signup import PendingSignup
from core.envelope import Origin
from core.errors import ConflictError
from core.phases import Phase
from core.postgres.held import read_held
from functions.demo.ledger import Kind, Ledger, Write
from functions.demo.recording import Recorder
from functions.demo.stores import Stores, fetch
from functions.demo.verdict import Faults, compare
from tests.chaos.fleet import open_fleet
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings
    from core.stamp import Stamp

WRITERS = 3
KEYS = 12


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.chaos)])
async def test_a_mirror_that_is_killed_at_random_moments_loses_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, tmp_path: Path, rounds: int
) -> None:
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    stores, ledger, rng = Stores(settings, mappings, engine, cosmos), Ledger(), random.Random()
    mirrored: list[int] = []
    done = asyncio.Event()
    small = {"CROSSFEED_MIRROR_PAGE_SIZE": "5", "CROSSFEED_MIRROR_LEASE_S": "0.3"}
    async with (
        open_fleet(settings, tmp_path / "mirrors.log", "mirror", **small) as fleet,
        Crossfeed.open(settings, mappings) as db,
    ):
        recorder = Recorder(db, mappings, ledger)
        writing = [asyncio.ensure_future(write(recorder, random.Random(seed), done)) for seed in range(WRITERS)]
        writing.append(asyncio.ensure_future(write_foreign(cosmos, ledger, rng, done)))
        watching = asyncio.ensure_future(never_backwards(engine, ledger))
        try:
            for _ in range(rounds):
                pid = await fleet.start()
                await asyncio.sleep(rng.uniform(0.3, 1.2))  # about the first 0.3 s are for its connections
                fleet.kill(pid)
                mirrored.append(await checkpoints(engine))
        finally:
            done.set()  # a writer that is cancelled could not tell what it has written
            await asyncio.gather(*writing)
    assert mirrored[-1] > 0, "no mirror lived long enough to mirror anything"
    last = Processor(engine, cosmos, mappings)
    await last.run_once()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    faults = Faults()
    compared = await compare(stores, ledger, faults)
    assert faults.by_identity == {}
    async with engine.connect() as connection:
        assert await fetch(connection, "SELECT * FROM crossfeed.dead_letter") == []
        assert await fetch(connection, "SELECT * FROM crossfeed.outbox") == []
    written = ledger.written.total()
    assert min(ledger.written.values()) > 0
    print(f"{rounds} kills, {written} writes to {compared} documents, {last.stats.documents} left for the last mirror")


async def checkpoints(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        [(count,)] = await fetch(connection, "SELECT count(continuation) FROM crossfeed.feed_range")
        return int(count)


async def write(recorder: Recorder, rng: random.Random, done: asyncio.Event) -> None:
    """Create, update and delete a few accounts, and move sign-ups from key to key."""
    while not done.is_set():
        with suppress(ConflictError):
            if rng.random() < 0.7:
                await write_account(recorder, rng)
            else:
                await move_signup(recorder, rng)
        await asyncio.sleep(rng.uniform(0, 0.02))


async def write_account(recorder: Recorder, rng: random.Random) -> None:
    async with recorder.unit_of_work() as work:
        id_ = f"a{rng.randrange(KEYS)}"
        account = await work[Account].get_by_id(id_, partition_key=id_)
        if account is None:
            await work[Account].add(Account(id=id_, display_name="new"))
        elif rng.random() < 0.3:
            await work[Account].delete(account)
        else:
            account.display_name = str(rng.random())
            await work[Account].update(account)
        await work.commit()


async def move_signup(recorder: Recorder, rng: random.Random) -> None:
    id_, keys = f"s{rng.randrange(KEYS)}", ["one@example.com", "two@example.com"]
    rng.shuffle(keys)
    for email in keys:
        async with recorder.unit_of_work() as work:
            signup = await work[PendingSignup].get_by_id(id_, partition_key=email)
            if signup is None:
                await work[PendingSignup].add(PendingSignup(id=id_, email=email))
            else:
                await work[PendingSignup].delete(signup)
            await work.commit()


async def write_foreign(cosmos: CosmosStore, ledger: Ledger, rng: random.Random, done: asyncio.Event) -> None:
    """Write as an application does that knows nothing of Crossfeed."""
    container = cosmos.container(ACCOUNTS)
    while not done.is_set():
        document = {"id": f"foreign-{rng.randrange(KEYS)}", "DisplayName": str(rng.random())}
        stored = await container.upsert_item(document)
        identity = ACCOUNTS.identity(document)
        kind = Kind.UPDATE if identity in ledger.latest else Kind.CREATE
        etag = str(stored["_etag"])
        ledger.acknowledged(Write(identity, kind, Origin.COSMOS, None, etag, document, time.perf_counter()))
        await asyncio.sleep(rng.uniform(0, 0.03))


async def never_backwards(engine: AsyncEngine, ledger: Ledger) -> None:
    """Look at what Postgres holds, again and again, and fail if a document's stamp went down or disappeared."""
    seen: dict[Identity, Stamp] = {}
    while True:
        for mapping in (ACCOUNTS, PENDING_SIGNUPS):
            known = [identity for identity in ledger.latest if identity.entity == mapping.name]
            async with engine.connect() as connection:
                found = await read_held(connection, mapping, known)
            for held in found:
                if held.identity in seen:
                    assert held.stamp is not None
                    assert held.stamp >= seen[held.identity]
                if held.stamp is not None:
                    seen[held.identity] = held.stamp
        await asyncio.sleep(0.01)
