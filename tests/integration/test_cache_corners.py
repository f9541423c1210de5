"""Corners of the read cache: refused changes, writes by SQL, reads at the same time, and what cannot be kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy import text

from core.cache import bodies
from core.cache.client import open_cache
from core.cache.entries import Change
from core.domain.account import Account
from core.domain.mappings import MAPPINGS
from core.errors import ConfigurationError
from core.mappings import Mappings
from core.settings import Settings
from tests.integration.cache_steps import Held, account, open_client
from tests.integration.relay_steps import until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.valkey import EmbeddedValkey
    from tests.integration.cache_steps import Client


async def test_a_change_that_redis_refuses_holds_up_no_other(opened: AsyncEngine, own_valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(own_valkey.url) as direct:
        direct.execute_command("ACL", "SETUSER", "somebody", "on", ">pw", "~crossfeed:Account:*", "+@all")
    limited = f"redis://somebody:pw@{own_valkey.url.rpartition('@')[2]}"
    async with open_client(opened, own_valkey, cache_url=limited) as one, open_client(opened, own_valkey) as other:
        await one.cache.tell([Change(f"crossfeed:UserProfile:{number}") for number in range(600)])
        await one.add(account("a", "old"))
        await other.get("a")
        await one.change("a", display_name="new")
        assert await other.name_of("a") == "new"
        assert one.cache.stats.invalidations > 0


async def test_readers_of_what_cannot_be_kept_do_not_queue(
    clients: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = clients
    await one.add(account("a", "Ann"))
    monkeypatch.setattr(bodies, "LONGEST", 10)
    held = Held()
    loading = asyncio.create_task(one.get("a", held))
    await held.has_read.wait()
    waiting = [asyncio.create_task(one.name_of("a")) for _ in range(5)]
    await until(lambda: one.cache.stats.waits == 5)
    held.let_go.set()
    await loading
    assert await asyncio.gather(*waiting) == ["Ann"] * 5
    assert one.cache.stats.bypassed == 5


async def test_a_unit_that_has_written_by_sql_is_followed_by_no_older_read(clients: tuple[Client, Client]) -> None:
    one, _ = clients
    await one.add(account("a", "old"))
    await one.get("a")
    async with one.work() as work:
        await work.connection.execute(text("UPDATE accounts SET display_name = 'new' WHERE id = 'a'"))
        await work.commit()
    assert await one.name_of("a") == "new"


@pytest.mark.parametrize(
    "body", [b'["not json", "a"]', b'["[]", "a"]', b'["[1,2,3]", "a"]', b'["[\\"\\u0000\\"]", "a"]']
)
async def test_garbage_in_a_look_up_is_no_answer(
    clients: tuple[Client, Client], valkey: EmbeddedValkey, body: bytes
) -> None:
    one, other = clients
    await one.add(account("a", "Ann"))
    await one.by_email("a@example.org")
    with redis.Redis.from_url(valkey.url) as server:
        server.hset(one.email_key("a@example.org"), "body", body)
    assert await other.by_email("a@example.org") is not None


async def test_who_was_told_that_there_is_none_is_not_shown_it_though_another_read_hit_meanwhile(
    clients: tuple[Client, Client],
) -> None:
    one, other = clients
    await one.add(account("a", "Ann"), account("b"))
    await one.get("a")
    held = Held()
    held.let_go.set()
    async with one.work(held) as work:
        found = await work[Account].get_by_id("b")
        assert found is not None
        await work[Account].update(found)  # from here on it reads the store
        async with other.losing_what_it_tells():
            await other.delete("a")
        held.let_go.clear()
        held.has_read.clear()
        direct = asyncio.create_task(work[Account].get_by_id("a"))
        await held.has_read.wait()
        assert await one.name_of("a") == "Ann"
        held.let_go.set()
        assert await direct is None
    assert await one.name_of("a") is None


async def test_who_was_shown_an_entity_is_not_told_that_nobody_has_its_value(clients: tuple[Client, Client]) -> None:
    one, other = clients
    assert await one.by_email("a@example.org") is None
    async with other.losing_what_it_tells():
        await other.add(account("a", "Ann"))
    assert await one.name_of("a") == "Ann"
    assert await one.by_email("a@example.org") is not None


@pytest.mark.parametrize("option", ["foo=1", "timeout=5", "ssl_cert_reqs=none"])
async def test_an_option_that_the_client_does_not_know_is_named_at_the_start(option: str) -> None:
    settings = Settings.load(cache_url=f"redis://127.0.0.1:1/0?{option}")
    with pytest.raises(ConfigurationError, match="CROSSFEED_CACHE_URL"):
        async with open_cache(settings, Mappings(MAPPINGS)):
            pass


async def test_a_read_beside_a_write_of_the_same_unit_keeps_nothing(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "old"))
    held = Held()
    async with one.work(held) as work:
        beside = asyncio.create_task(work[Account].get_by_id("a"))
        await held.has_read.wait()
        await work[Account].add(account("b"))
        held.let_go.set()
        await beside
        await one.landed()
    assert one.cache.stats.fills == 0
    assert await other.name_of("a") == "old"


async def test_an_outage_that_lasts_until_nothing_untold_matters_leaves_nothing_behind(
    opened: AsyncEngine, own_valkey: EmbeddedValkey
) -> None:
    async with open_client(opened, own_valkey, cache_ttl_s=0.5, cache_timeout_ms=200) as client:
        own_valkey.kill()
        await client.cache.tell([Change("crossfeed:Account:a")])
        await asyncio.sleep(0.4)
        own_valkey.start()
        await until(lambda: client.cache.stats.invalidations + client.cache.stats.invalidations_lost > 0)
        assert await client.cache.tell([Change("crossfeed:Account:b")]) == 0
