"""What the read cache serves, and what it must not serve: each hole that was closed has its test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy import text

from core.cache import seen
from core.cache.changes import Changed
from core.domain.account import Account
from core.entity import loaded
from core.errors import ConcurrencyError
from core.phases import Phase, PhaseRow, PhaseState
from core.stamp import Stamp
from tests.integration.cache_steps import Held, account, identity_of, open_client

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.valkey import EmbeddedValkey
    from tests.integration.cache_steps import Client


def forget(client: Client) -> None:
    """Make it as if the process had just been started."""
    client.cache.seen = seen.Seen(100, 100.0, client.cache.clock)


def stamp_of(entity: Account) -> Stamp:
    state = loaded(entity)
    assert state is not None
    return state.stamp


async def test_what_one_process_has_loaded_is_served_to_all(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "Ann"))
    assert (await one.get("a")) is not None
    found = await other.get("a")
    assert found is not None
    assert found.display_name == "Ann"
    assert (one.loads, other.loads, other.hits) == (1, 0, 1)


async def test_an_entity_from_the_cache_can_be_written(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "Ann"))
    await one.get("a")
    async with other.work() as work:
        found = await work[Account].get_by_id("a")
        assert found is not None
        assert other.hits == 1
        found.display_name = "Anna"
        await work[Account].update(found)
        await work.commit()
    again = await one.get("a")
    assert again is not None
    assert again.display_name == "Anna"


async def test_that_there_is_nothing_is_remembered_until_somebody_adds_it(clients: tuple[Client, Client]) -> None:
    one, other = clients
    assert await one.get("a") is None
    assert await other.get("a") is None
    assert (one.loads, other.loads, other.cache.stats.negative_hits) == (1, 0, 1)
    await one.add(account("a"))
    assert await other.get("a") is not None


async def test_a_load_that_began_before_an_invalidation_fills_nothing(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    held = Held()
    late = asyncio.create_task(one.get("a", held))
    await held.has_read.wait()
    await other.change("a", display_name="new")
    held.let_go.set()
    await late
    assert one.cache.stats.fills_refused == 1
    found = await other.get("a")
    assert found is not None
    assert found.display_name == "new"
    assert other.loads == 1


async def test_a_load_that_began_before_its_entry_was_evicted_fills_nothing(
    clients: tuple[Client, Client], valkey: EmbeddedValkey
) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    held = Held()
    late = asyncio.create_task(one.get("a", held))
    await held.has_read.wait()
    await other.change("a", display_name="new")
    with redis.Redis.from_url(valkey.url) as server:
        server.delete(one.key("a"))  # the floor that the invalidation has left, too
    held.let_go.set()
    await late
    assert one.cache.stats.fills_refused == 1
    assert await one.get("a") == await other.get("a")


async def test_a_late_load_fills_nothing_under_the_token_of_another_one(
    clients: tuple[Client, Client], valkey: EmbeddedValkey
) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    held, others = Held(), Held()
    late = asyncio.create_task(one.get("a", held))
    await held.has_read.wait()
    await other.change("a", display_name="new")
    with redis.Redis.from_url(valkey.url) as server:
        server.delete(one.key("a"))
    loading = asyncio.create_task(other.get("a", others))
    await others.has_read.wait()
    held.let_go.set()
    await late
    assert one.cache.stats.fills_refused == 1
    others.let_go.set()
    await loading
    assert other.cache.stats.fills == 1


async def test_a_late_look_up_does_not_say_that_there_is_nothing(clients: tuple[Client, Client]) -> None:
    one, other = clients
    held = Held()
    late = asyncio.create_task(one.by_email("a@example.org", held))
    await held.has_read.wait()
    await other.add(account("a"))
    held.let_go.set()
    assert await late is None
    forget(one)
    assert await one.by_email("a@example.org") is not None


async def test_a_load_that_sees_less_than_an_invalidation_fills_nothing(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    # Told before the load begins, and the load sees it not yet: a replica that is behind.
    await other.cache.changed([Changed(identity_of("a"), Stamp(9, 9))])
    await one.get("a")
    assert one.cache.stats.fills_refused == 1
    await other.cache.changed([Changed(identity_of("b"), Stamp(9, 9))])
    assert await one.get("b") is None
    assert one.cache.stats.fills_refused == 2


async def test_a_delete_may_be_told_with_the_stamp_of_what_was_deleted(clients: tuple[Client, Client]) -> None:
    one, other = clients
    added = account("a")
    await one.add(added)
    await one.get("a")
    await one.cache.changed([Changed(identity_of("a"), stamp_of(added), deleted=True)])
    await other.get("a")  # it is there still, as it is in a replica that is behind
    assert (other.hits, other.cache.stats.fills_refused) == (0, 1)


async def test_a_late_invalidation_takes_nothing_newer_away(clients: tuple[Client, Client]) -> None:
    one, other = clients
    added = account("a")
    await one.add(added)
    before = stamp_of(added)
    changed = await one.change("a", display_name="new")
    await one.get("a")
    await other.cache.changed([Changed(identity_of("a"), stamp) for stamp in (before, stamp_of(changed), before)])
    await other.get("a")
    assert other.hits == 1


async def test_who_was_shown_a_state_is_shown_none_before_it_though_an_invalidation_was_lost(
    clients: tuple[Client, Client],
) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    await one.get("a")
    async with one.losing_what_it_tells():
        await one.change("a", display_name="new")
    assert await other.name_of("a") == "old"
    assert await one.name_of("a") == "new"
    assert one.cache.stats.stale == 1
    assert await other.name_of("a") == "new"


async def test_who_deleted_is_not_shown_what_was_there_though_an_invalidation_was_lost(
    clients: tuple[Client, Client],
) -> None:
    one, _ = clients
    await one.add(account("a"))
    await one.get("a")
    async with one.losing_what_it_tells():
        await one.delete("a")
    assert await one.get("a") is None


async def test_who_added_is_not_told_that_there_is_nothing_though_an_invalidation_was_lost(
    clients: tuple[Client, Client],
) -> None:
    one, _ = clients
    assert await one.get("a") is None
    assert await one.by_email("a@example.org") is None
    async with one.losing_what_it_tells():
        await one.add(account("a"))
    assert await one.get("a") is not None
    assert await one.by_email("a@example.org") is not None


async def test_who_has_listed_a_state_is_shown_none_before_it(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    await one.get("a")
    async with other.losing_what_it_tells():
        await other.change("a", display_name="new")
    async with one.work() as work:
        [listed] = [found async for found in work[Account].stream()]
    assert listed.display_name == "new"
    assert await one.name_of("a") == "new"


async def test_what_was_forgotten_for_want_of_room_is_not_shown_older_either(
    opened: AsyncEngine, valkey: EmbeddedValkey
) -> None:
    async with open_client(opened, valkey, cache_remembered=1) as one, open_client(opened, valkey) as other:
        await other.add(account("a", "old"), account("b"), account("c"))
        await other.get("a")
        async with other.losing_what_it_tells():
            await other.change("a", display_name="new")
        async with one.work() as work:
            assert len(await work[Account].list()) == 3
            assert len(await work[Account].list()) == 3
        assert await one.name_of("a") == "new"


async def test_within_a_unit_that_has_written_the_cache_is_neither_asked_nor_filled(
    clients: tuple[Client, Client],
) -> None:
    one, other = clients
    await one.add(account("a", "old"), account("b"))
    await other.get("a")
    async with one.work() as work:
        found = await work[Account].get_by_id("b")
        assert found is not None
        await work[Account].delete(found)
        assert await work[Account].get_by_id("b") is None
        assert not await work[Account].exists("b")
        assert one.hits == 0
    assert await other.get("b") is not None  # it was rolled back


async def test_a_unit_that_has_run_sql_reads_past_the_cache(clients: tuple[Client, Client]) -> None:
    one, _ = clients
    await one.add(account("a", "old"))
    await one.get("a")
    async with one.work() as work:
        await work.connection.execute(text("UPDATE accounts SET display_name = 'mine' WHERE id = 'a'"))
        found = await work[Account].get_by_id("a")
        assert found is not None
        assert found.display_name == "mine"
    assert await one.name_of("a") == "old"


async def test_a_conflict_with_a_stale_entry_is_met_once(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    await one.get("a")
    async with other.losing_what_it_tells():
        await other.change("a", display_name="new")
    forget(one)

    async def rename() -> None:
        async with one.work() as work:
            found = await work[Account].get_by_id("a")
            assert found is not None
            found.display_name += "!"
            await work[Account].update(found)
            await work.commit()

    with pytest.raises(ConcurrencyError):
        await rename()
    await rename()
    assert await other.name_of("a") == "new!"


async def test_an_entry_of_before_a_step_between_phases_is_not_served(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a"))
    await one.get("a")
    other.phase = PhaseRow(Phase.POSTGRES_ONLY, 2, PhaseState.STEADY)
    await other.get("a")
    assert (other.hits, other.loads) == (0, 1)
    await one.get("a")  # who has not heard of the step yet neither takes nor spoils the new entry
    assert (one.hits, one.cache.stats.bypassed) == (0, 1)
    await other.get("a")
    assert other.hits == 1
