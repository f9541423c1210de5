"""Each flaw of the kind of migration that Crossfeed replaces has a test here that is named after it.

Two more, of the fallback, are in test_routing.py: `…exists_by_email_falls_back…` and `…resurrects_no_deleted_entity`.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from changefeed.processor import Processor
from core.cosmos.client import open_cosmos
from core.crossfeed import Crossfeed
from core.domain.account import Account, Accounts
from core.domain.game_session import SessionStatus
from core.domain.mappings import GAME_SESSIONS
from core.errors import ConcurrencyError, PrimaryMovedError, TransientError
from core.phases import PHASE_AGE_S, Phase
from outbox.relay import open_relay
from outbox.replay import replay
from tests.integration.migration_steps import COSMOS, POSTGRES, Town, quick_town
from tests.integration.relay_steps import letters, run, versions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos.server import CosmosServer
    from core.mappings import Mappings
    from core.repository import UnitOfWork
    from core.settings import Settings
    from outbox.relay import Relay


@pytest.fixture
def town(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Town:
    return quick_town(settings, engine, cosmos, mappings)


def relay_of(town: Town) -> Relay:
    return open_relay(town.settings, town.mappings, town.engine, town.store)


async def mirror_once(town: Town) -> None:
    await Processor(town.engine, town.store, town.mappings).run_once()


async def transact(town: Town, use_case: Callable[[UnitOfWork], Awaitable[None]]) -> None:
    async with Crossfeed.open(town.settings, town.mappings) as db:
        await db.transact(use_case)


async def test_flaw_an_enqueue_that_fails_after_the_write_is_swallowed(town: Town) -> None:
    await town.put(POSTGRES)
    await run(town.engine, "ALTER TABLE crossfeed.outbox ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
    with pytest.raises(Exception, match="full_disk"):
        await town.add("a")
    assert await town.accounts() == set()  # no message, no write


async def test_flaw_fire_and_forget_writes_with_no_retry(town: Town, own_cosmos_server: CosmosServer) -> None:
    there = {"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    settings = town.settings.model_copy(update=there)
    await town.put(POSTGRES)
    await run(town.engine, "INSERT INTO accounts (id) VALUES ('a')")
    async with open_cosmos(settings) as empty:
        away = Town(settings, town.engine, empty, town.mappings)
        relay = relay_of(away)
        with pytest.raises(TransientError):
            await relay.run_once()
        await empty.provision(town.mappings)
        await relay.run_once()
        assert await away.documents() == {"a"}
    assert await letters(town.engine) == []


async def test_flaw_a_queue_in_memory(town: Town) -> None:
    await town.put(POSTGRES)
    async with Crossfeed.open(town.settings, town.mappings) as db, db.unit_of_work() as work:
        await work[Account].add(Account(id="a"))
        await work.commit()
    await town.engine.dispose()  # nothing of the process that wrote is left; another one carries it
    await relay_of(town).run_once()
    assert await town.documents() == {"a"}


async def test_flaw_a_worker_that_takes_cosmos_for_the_truth_in_every_phase(town: Town) -> None:
    await town.put(COSMOS)
    await town.add("a")
    await mirror_once(town)
    await town.put(POSTGRES)
    await run(town.engine, "UPDATE accounts SET display_name = 'newer' WHERE id = 'a'")
    async for document in town.store.container(town.mappings.of(Account)).query_items("SELECT * FROM c"):
        await town.store.container(town.mappings.of(Account)).upsert_item({**document, "DisplayName": "rogue"})
    await mirror_once(town)
    async with town.engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT display_name FROM accounts")).scalars().all() == ["newer"]


async def test_flaw_missing_in_cosmos_is_taken_for_a_delete_in_postgres(town: Town) -> None:
    await town.put(POSTGRES)
    await run(town.engine, "INSERT INTO accounts (id) VALUES ('a')")
    await mirror_once(town)  # Cosmos DB has never seen it
    assert await town.accounts() == {"a"}


async def test_flaw_retries_that_reorder(town: Town) -> None:
    await town.put(POSTGRES)
    relay = relay_of(town)
    for name in ("one", "two", "three"):
        await run(
            town.engine,
            f"INSERT INTO accounts (id) VALUES ('a') ON CONFLICT (id) DO UPDATE SET display_name = '{name}'",
        )
        await relay.run_once()
    await replay(town.engine, timedelta(hours=1), events=False, dry_run=False)  # all of it again
    await relay_of(town).run_once()
    [claim] = await town.claims("a")
    assert claim["version"] == (await versions(town.engine, "accounts"))["a"] == 3


async def test_flaw_a_phase_that_is_fixed_at_start_up_but_read_live(town: Town) -> None:
    await town.put(COSMOS)
    pinned = town.settings.model_copy(update={"phase": COSMOS})
    async with Crossfeed.open(pinned, town.mappings) as db:
        await town.put(POSTGRES)
        await asyncio.sleep(PHASE_AGE_S * 1.5)
        async with db.unit_of_work() as work:
            with pytest.raises(PrimaryMovedError, match="pinned to phase dual_write_cosmos_read"):
                await work[Account].add(Account(id="a"))


async def test_flaw_a_way_back_that_strands_what_was_written_in_postgres_alone(town: Town) -> None:
    await town.put(POSTGRES)
    await town.to(Phase.POSTGRES_ONLY)
    await run(town.engine, "INSERT INTO accounts (id) VALUES ('a'), ('gone')", "DELETE FROM accounts WHERE id = 'gone'")
    async with town.relaying(), town.mirroring():
        assert (await town.to(POSTGRES)).outcome == "done"
        assert (await town.to(COSMOS)).outcome == "done"
    assert await town.documents() == {"a"}
    async with Crossfeed.open(town.settings, town.mappings) as db, db.unit_of_work() as work:
        assert await work[Account].get_by_id("a") is not None


@pytest.mark.parametrize("id_", ["acc-1", "6F9619FF-8B86-D011-B42D-00C04FC964FF", "6f9619ff8b86d011b42d00c04fc964ff"])
@pytest.mark.parametrize("phase", [COSMOS, POSTGRES], ids=["cosmos", "postgres"])
async def test_flaw_ids_that_are_parsed_as_guids(town: Town, phase: Phase, id_: str) -> None:
    await town.put(phase)
    await town.add(id_)
    async with Crossfeed.open(town.settings, town.mappings) as db, db.unit_of_work() as work:
        found = await work[Account].get_by_id(id_)
        assert found is not None
        assert found.id == id_
        assert await work[Account].get_by_id(id_.swapcase()) is None


@pytest.mark.parametrize("phase", [COSMOS, POSTGRES], ids=["cosmos", "postgres"])
async def test_flaw_no_optimistic_concurrency(town: Town, phase: Phase) -> None:
    await town.put(phase)
    await town.add("a")
    async with Crossfeed.open(town.settings, town.mappings) as db, db.unit_of_work() as slow:
        stale = await slow[Account].get_by_id("a")
        assert stale is not None

        async def faster(work: UnitOfWork) -> None:
            found = await work.of(Accounts).get_by_id("a")
            assert found is not None
            await work[Account].update(found.model_copy(update={"display_name": "faster"}))
            await work.commit()

        await transact(town, faster)
        stale.display_name = "slower"
        with pytest.raises(ConcurrencyError):
            await _write(slow, stale)


async def _write(work: UnitOfWork, account: Account) -> None:
    await work[Account].update(account)
    await work.commit()


async def test_flaw_one_bad_message_kills_the_worker(town: Town) -> None:
    await town.put(COSMOS)
    accounts = town.store.container(town.mappings.of(Account))
    await accounts.create_item({"id": "bad", "Email": {"not": "a text"}})
    await accounts.create_item({"id": "good", "Email": "good@example.org"})
    await mirror_once(town)
    assert await town.accounts() == {"good"}
    assert len(await letters(town.engine)) == 1


def test_flaw_an_unknown_choice_falls_into_the_branch_of_another() -> None:
    document = {"id": "s", "accountId": "a", "Status": "Resumed"}
    with pytest.raises(Exception, match=r"Status|status"):
        GAME_SESSIONS.entity(document)
    assert GAME_SESSIONS.entity({**document, "Status": "Paused"}).status is SessionStatus.PAUSED
