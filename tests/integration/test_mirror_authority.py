"""While Postgres is primary the mirror believes no document: echoes are ignored, rogue and late writes are healed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.guarded import GuardedWriter
from core.domain.account import Account
from core.envelope import is_deleted
from core.phases import Phase
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from outbox.current_state import load
from tests.integration.mirror_steps import Steps

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Publish
    from core.identity import Identity
    from core.mappings import Mappings


@pytest.fixture
async def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return Steps(engine, cosmos, mappings, mappings.of(Account))


class NoQuarantine:
    """Keeps what was quarantined, for assertions."""

    def __init__(self) -> None:
        self.kept: list[Identity] = []

    async def untaken(self, item: Publish, found: Document) -> None:
        assert found
        self.kept.append(item.identity)

    async def confirm(self, item: Publish) -> None:
        pass


async def publish(steps: Steps, id_: str, quarantine: NoQuarantine | None = None) -> None:
    """Do what the relay does for one identity, with the state of now."""
    identity = steps.mapping.identity_of(id_, id_)
    async with steps.engine.connect() as connection:
        loaded = await load(connection, steps.mappings, [identity], await steps.phase(), 3600)
    await GuardedWriter(steps.store, steps.mappings, quarantine or NoQuarantine(), 4).write(loaded.publish)
    await steps.watch()


async def _postgres_writes(engine: AsyncEngine, mappings: Mappings, id_: str, **values: Any) -> None:
    async with PostgresUnitOfWork(engine, mappings) as work:
        account = await work[Account].get_by_id(id_, partition_key=id_)
        assert account is not None
        for name, value in values.items():
            setattr(account, name, value)
        await work[Account].update(account)
        await work.commit()


async def test_a_batch_that_slept_through_two_switches_does_not_bring_an_echo_back(
    steps: Steps, engine: AsyncEngine
) -> None:
    """The relay's document of the last era has a newer position than the row ever took; it is old all the same."""
    await steps.add(Account(id="a", display_name="one"))
    await steps.apply(steps.history)
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await _postgres_writes(engine, steps.mappings, "a", display_name="two")
    await publish(steps, "a")
    echo = steps.history[-1]
    assert echo["DisplayName"] == "two"
    await _postgres_writes(engine, steps.mappings, "a", display_name="three")
    await publish(steps, "a")
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    await steps.apply([echo])
    content = await steps.content("a")
    assert content is not None
    assert content["DisplayName"] == "three"


async def test_a_foreign_document_of_an_earlier_era_does_not_come_back(steps: Steps, engine: AsyncEngine) -> None:
    await steps.add(Account(id="a", display_name="one"))
    await steps.apply(steps.history)
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await steps.foreign({"id": "a", "DisplayName": "rogue"})
    rogue = steps.history[-1]
    await steps.apply([rogue])
    await publish(steps, "a")
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    await steps.apply([rogue])
    content = await steps.content("a")
    assert content is not None
    assert content["DisplayName"] == "one"


async def test_a_rogue_write_is_quarantined_and_healed_once_per_content(steps: Steps, engine: AsyncEngine) -> None:
    await steps.add(Account(id="a", display_name="one"))
    await steps.apply(steps.history)
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await steps.foreign({"id": "a", "DisplayName": "rogue"})
    outcome = await steps.apply(steps.history[-1:])
    assert (outcome.quarantined, outcome.applied) == (1, 0)
    assert await steps.count("crossfeed.outbox") == 1
    await steps.apply(steps.history[-1:])
    assert await steps.count("crossfeed.outbox") == 1, "the same content is healed once"
    assert await steps.count("crossfeed.dead_letter WHERE kind = 'rogue_write' AND attempts = 2") == 1
    await publish(steps, "a")
    current = await steps.current("a")
    assert current is not None
    assert current["DisplayName"] == "one"


async def test_a_rogue_document_without_a_row_gets_its_tombstone(steps: Steps, engine: AsyncEngine) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await steps.foreign({"id": "nobody", "DisplayName": "rogue"})
    await steps.apply(steps.history)
    assert (await steps.held("nobody")).tombstone is not None
    await publish(steps, "nobody")
    current = await steps.current("nobody")
    assert current is not None
    assert is_deleted(current)


async def test_a_late_write_of_the_former_epoch_is_quarantined_and_healed(steps: Steps, engine: AsyncEngine) -> None:
    await steps.add(Account(id="a", display_name="one"))
    await steps.apply(steps.history)
    before = (await steps.phase()).epoch
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    async with steps.work(before) as work:
        account = await work[Account].get_by_id("a", partition_key="a")
        assert account is not None
        account.display_name = "sent before the flip, landed after"
        await work[Account].update(account)
        await work.commit()
    await steps.watch()
    outcome = await steps.apply(steps.history[-1:])
    assert outcome.quarantined == 1
    assert await steps.count("crossfeed.dead_letter WHERE kind = 'late_write'") == 1
    content = await steps.content("a")
    assert content is not None
    assert content["DisplayName"] == "one"


async def test_a_late_write_that_the_relay_meets_first_is_kept_before_it_is_replaced(
    steps: Steps, engine: AsyncEngine
) -> None:
    await steps.add(Account(id="a", display_name="one"))
    await steps.apply(steps.history)
    before = (await steps.phase()).epoch
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    async with steps.work(before) as work:
        account = await work[Account].get_by_id("a", partition_key="a")
        assert account is not None
        account.display_name = "sent before the flip, landed after"
        await work[Account].update(account)
        await work.commit()
    await _postgres_writes(engine, steps.mappings, "a", display_name="two")
    quarantine = NoQuarantine()
    await publish(steps, "a", quarantine)
    assert len(quarantine.kept) == 1
    await _postgres_writes(engine, steps.mappings, "a", display_name="three")
    await publish(steps, "a", quarantine)
    assert len(quarantine.kept) == 1, "the relay's own documents are nobody's late writes"


async def test_a_document_that_was_mirrored_is_replaced_without_a_quarantine(steps: Steps, engine: AsyncEngine) -> None:
    await steps.add(Account(id="updated"))
    await steps.add(Account(id="deleted"))
    await steps.add(Account(id="reborn"))
    await steps.delete("reborn")
    await steps.apply(steps.history)
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await _postgres_writes(engine, steps.mappings, "updated", display_name="two")
    async with engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM accounts WHERE id = 'deleted'")
        await connection.exec_driver_sql("INSERT INTO accounts (id) VALUES ('reborn')")
    quarantine = NoQuarantine()
    for id_ in ("updated", "deleted", "reborn"):
        await publish(steps, id_, quarantine)
        current = await steps.current(id_)
        assert current is not None
        assert current["crossfeed"]["origin"] == "postgres"
    assert quarantine.kept == []


async def test_the_relays_own_documents_are_echoes(steps: Steps, engine: AsyncEngine) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    async with PostgresUnitOfWork(engine, steps.mappings) as work:
        await work[Account].add(Account(id="a"))
        await work.commit()
    messages = await steps.count("crossfeed.outbox")
    await publish(steps, "a")
    outcome = await steps.apply(steps.history)
    assert (outcome.ignored, outcome.applied, outcome.taken, outcome.quarantined) == (1, 0, 0, 0)
    assert await steps.count("crossfeed.outbox") == messages
