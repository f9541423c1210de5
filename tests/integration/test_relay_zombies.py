"""G4 towards Cosmos DB across a flip: a relay that wakes up in another epoch leaves the documents alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.documents import CosmosDocuments
from core.cosmos.guarded import GuardedWriter
from core.cosmos.publish import Publish, publish_state
from core.domain.account import Account
from core.errors import PrimaryMovedError
from core.phases import Phase
from core.postgres import phases
from core.postgres.engine import fetch
from core.stamp import Stamp
from outbox.quarantine import FRESH_S, LetterQuarantine
from outbox.relay import Relay, open_relay
from outbox.stats import RelayStats
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import falls_silent, letters, make_primary, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Outcome
    from core.mappings import Mappings
    from core.settings import Settings

UPDATE = "UPDATE accounts SET display_name = 'of postgres' WHERE id = 'a'"
DELETE = "DELETE FROM accounts WHERE id = 'a'"


class Zombie:
    """A relay that falls asleep when it is about to send."""

    def __init__(self, settings: Settings, mappings: Mappings, engine: AsyncEngine, store: CosmosStore) -> None:
        self.stats = RelayStats()
        self._writer = GuardedWriter(store, mappings, LetterQuarantine(engine, mappings, self.stats), 8)
        self._relay = Relay(settings, mappings, engine, self, self.stats)
        self._wiring = (settings, mappings, engine, store)
        self._asleep = asyncio.Event()
        self._wake = asyncio.Event()

    def another(self) -> Relay:
        """A relay of the same database that is awake."""
        return open_relay(*self._wiring)

    async def write(self, items: Sequence[Publish], *, check: Any, **how: Any) -> list[Outcome]:
        """Send without looking at the lease: its request was under way all the time, and arrives when it wakes up."""
        self._asleep.set()
        await self._wake.wait()
        return await self._writer.write(items, **how)

    async def fall_asleep(self) -> asyncio.Future[int]:
        running = asyncio.ensure_future(self._relay.drain())
        await self._asleep.wait()
        await falls_silent(self._wiring[2], self._relay)
        return running

    async def wake_up(self, running: asyncio.Future[int]) -> None:
        del self._relay.leases.renew_if_due
        self._wake.set()
        await asyncio.wait_for(running, 20)


@pytest.fixture
async def zombie(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Zombie:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id, display_name) VALUES ('a', 'old')")
    return Zombie(settings, mappings, engine, cosmos)


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, mappings.of(Account))


@pytest.mark.parametrize("last_change", [UPDATE, DELETE], ids=["state", "tombstone"])
@pytest.mark.parametrize("mirrored", [True, False])
async def test_a_relay_that_slept_through_the_flip_does_not_replace_what_the_new_primary_wrote(
    engine: AsyncEngine, zombie: Zombie, steps: Steps, last_change: str, mirrored: bool
) -> None:
    await zombie.another().drain()
    await run(engine, last_change)
    running = await zombie.fall_asleep()
    await zombie.another().drain()
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await steps.watch()
    await steps.foreign({"id": "a", "DisplayName": "of the new primary"})
    if mirrored:
        await steps.apply(steps.history[-1:])
    written = await steps.current("a")
    await zombie.wake_up(running)
    assert await steps.current("a") == written
    await steps.watch()
    await steps.apply(steps.history)
    content = await steps.content("a")
    assert content is not None
    assert content["DisplayName"] == "of the new primary"
    assert await letters(engine) == []
    assert zombie.stats.quarantined == 0


async def test_a_relay_that_slept_while_newer_states_were_sent_does_not_put_its_own_over_a_foreign_document(
    engine: AsyncEngine, zombie: Zombie, steps: Steps
) -> None:
    await zombie.another().drain()
    await run(engine, UPDATE)
    running = await zombie.fall_asleep()
    await run(engine, "UPDATE accounts SET display_name = 'newest' WHERE id = 'a'")
    await zombie.another().drain()
    await steps.watch()
    await steps.foreign({"id": "a", "DisplayName": "rogue"})
    rogue = await steps.current("a")
    await zombie.wake_up(running)
    assert await steps.current("a") == rogue
    assert zombie.stats.quarantined == 0
    await steps.apply(steps.history[-1:])
    await zombie.another().drain()
    healed = await steps.current("a")
    assert healed is not None
    assert healed["DisplayName"] == "newest"
    assert len(await letters(engine)) == 1


@pytest.mark.parametrize("last_change", [None, UPDATE, DELETE], ids=["insert", "update", "delete"])
async def test_a_relay_that_slept_through_the_flip_does_not_create_what_the_new_primary_deleted(
    engine: AsyncEngine, zombie: Zombie, steps: Steps, last_change: str | None
) -> None:
    if last_change is not None:
        await run(engine, last_change)
    running = await zombie.fall_asleep()
    await zombie.another().drain()
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await steps.store.container(steps.mapping).delete_item("a", partition_key="a")
    await zombie.wake_up(running)
    assert await steps.current("a") is None


async def test_a_foreign_writer_that_puts_an_old_document_of_ours_back_after_the_flip_is_not_overwritten(
    engine: AsyncEngine, zombie: Zombie, steps: Steps
) -> None:
    """Its stamp is older and verifies, so only the epoch tells that it is the new primary's."""
    await zombie.another().drain()
    old = await steps.current("a")
    assert old is not None
    await run(engine, UPDATE)
    running = await zombie.fall_asleep()
    await zombie.another().drain()
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await steps.foreign({key: value for key, value in old.items() if not key.startswith("_")})
    written = await steps.current("a")
    await zombie.wake_up(running)
    assert await steps.current("a") == written


def publish(mappings: Mappings, number: int, epoch: int, version: int = 1) -> Publish:
    accounts = mappings.of(Account)
    content = accounts.document(Account(id=f"a{number}"))
    identity = accounts.identity_of(f"a{number}", f"a{number}")
    return publish_state(accounts, identity, Stamp(epoch, version), content, taken_etag=None, loaded_in=epoch)


class Questions:
    """Counts how often Postgres is asked for the phase."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        monkeypatch.setattr(phases, "fetch", self._fetch)

    async def _fetch(self, connection: Any, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        self.asked += "crossfeed.phase" in sql
        return await fetch(connection, sql, parameters)


async def test_creates_ask_once_in_a_while_and_updates_never(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = (await make_primary(engine)).epoch
    now = 0.0
    quarantine = LetterQuarantine(engine, mappings, RelayStats(), clock=lambda: now)
    writer = GuardedWriter(cosmos, mappings, quarantine, 8)
    questions = Questions(monkeypatch)
    await writer.write([publish(mappings, number, epoch) for number in range(40)])
    assert questions.asked == 1
    now = FRESH_S * 2
    await writer.write([publish(mappings, number, epoch, version=2) for number in range(40)])
    assert questions.asked == 1
    await writer.write([publish(mappings, number, epoch) for number in range(40, 60)])
    assert questions.asked == 2


async def test_an_answer_of_another_epoch_is_no_answer(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    old = (await make_primary(engine)).epoch
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    new = (await make_primary(engine)).epoch
    writer = GuardedWriter(cosmos, mappings, LetterQuarantine(engine, mappings, RelayStats(), clock=lambda: 0.0), 8)
    await writer.write([publish(mappings, 1, new)])
    with pytest.raises(PrimaryMovedError):
        await writer.write([publish(mappings, 2, old)])
    assert await CosmosDocuments(cosmos, mappings).read(publish(mappings, 2, old).identity) is None
