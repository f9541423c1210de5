"""Redis is away, slow, full, old or full of garbage: reads and writes are slower then, never wrong, and never fail."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
import redis

from core.cache import telling
from core.cache.client import open_cache
from core.domain.mappings import MAPPINGS
from core.errors import ConfigurationError
from core.local.valkey import EmbeddedValkey
from core.mappings import Mappings
from core.settings import Settings
from tests.integration.cache_steps import Held, account, open_client

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.integration.cache_steps import Client


async def test_without_redis_everything_goes_on_and_with_it_again_so_does_the_cache(
    opened: AsyncEngine, own_valkey: EmbeddedValkey
) -> None:
    async with open_client(opened, own_valkey) as client:
        await client.add(account("a", "Ann"))
        own_valkey.kill()
        for number in range(5):
            await client.change("a", display_name=str(number))
            assert await client.name_of("a") == str(number)
        assert client.cache.stats.breaker == "open"
        own_valkey.start()
        async with asyncio.timeout(10):
            while not client.hits:
                assert await client.name_of("a") == "4"
                await asyncio.sleep(0.01)
        assert client.cache.stats.breaker == "closed"


async def test_what_could_not_be_told_is_told_when_redis_answers_again(
    opened: AsyncEngine, own_valkey: EmbeddedValkey
) -> None:
    async with open_client(opened, own_valkey, cache_timeout_ms=30) as one, open_client(opened, own_valkey) as other:
        await one.add(account("a", "old"))
        await other.get("a")
        with own_valkey.frozen():
            began = time.monotonic()
            await one.change("a", display_name="new")
            await one.change("a", display_name="newer")
            assert time.monotonic() - began < 3.0
        async with asyncio.timeout(10):
            while await other.name_of("a") != "newer":  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.01)
        assert one.cache.stats.invalidations_lost == 0


async def test_what_can_never_be_told_is_given_up_and_counted(
    opened: AsyncEngine, own_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "MOST_UNTOLD", 3)
    async with open_client(opened, own_valkey) as client:
        own_valkey.kill()
        await client.add(*(account(letter) for letter in "abc"))
        assert client.cache.stats.invalidations_lost == 3  # of six: three entities, and the e-mail of each
    assert client.cache.stats.invalidations_lost == 6


async def test_a_slow_redis_costs_its_timeout_a_few_times(opened: AsyncEngine, own_valkey: EmbeddedValkey) -> None:
    async with open_client(opened, own_valkey, cache_timeout_ms=40) as client:
        await client.add(account("a", "Ann"))
        with own_valkey.frozen():
            for _ in range(30):
                assert await client.name_of("a") == "Ann"
        assert 3 <= client.cache.stats.errors < 15


async def test_an_answer_that_came_too_late_is_nobody_elses(opened: AsyncEngine, own_valkey: EmbeddedValkey) -> None:
    async with open_client(opened, own_valkey, cache_timeout_ms=40) as client:
        names = {letter: f"name of {letter}" for letter in "abcd"}
        await client.add(*(account(letter, name) for letter, name in names.items()))
        for letter in names:
            await client.get(letter)
        for letter in "ab":
            with own_valkey.frozen():
                assert await client.name_of(letter) == names[letter]
        async with asyncio.timeout(10):
            while client.hits < 8:
                for letter, name in names.items():
                    assert await client.name_of(letter) == name


async def test_what_a_restart_brings_back_from_disk_is_not_served(opened: AsyncEngine, tmp_path: Path) -> None:
    kept = {"dir": str(tmp_path), "appendonly": "no"}
    with EmbeddedValkey(kept) as server:
        async with open_client(opened, server) as one, open_client(opened, server) as other:
            await one.add(account("a", "old"), account("b", "old"))
            await one.get("a")
            held = Held()
            late = asyncio.create_task(one.get("b", held))
            await held.has_read.wait()
            with redis.Redis.from_url(server.url) as direct:
                direct.save()
            await one.change("a", display_name="new")
            await one.change("b", display_name="new")
            server.kill()
            server.start()
            with redis.Redis.from_url(server.url) as direct:
                assert direct.exists(one.key("a"), one.key("b")) == 2  # the old entry, and the token
            assert await other.name_of("a") == "new"
            held.let_go.set()
            await late
            await one.landed()
            assert await other.name_of("b") == "new"


async def test_a_full_redis_keeps_nothing_and_forgets_what_it_is_told(opened: AsyncEngine) -> None:
    with EmbeddedValkey({"maxmemory-policy": "noeviction"}) as server:
        async with open_client(opened, server) as one, open_client(opened, server) as other:
            await one.add(account("a", "old"), account("b", "old"))
            await other.get("a")
            with redis.Redis.from_url(server.url) as direct:
                direct.config_set("maxmemory", "1mb")
                with pytest.raises(redis.exceptions.OutOfMemoryError):
                    direct.set("anything", b"")
            await one.change("a", display_name="new")
            assert await other.name_of("a") == "new"
            assert await other.name_of("b") == "old"
            assert (other.cache.stats.fills, other.cache.stats.bypassed) == (1, 2)
            assert one.cache.stats.invalidations_lost == 0


async def test_a_server_that_became_a_replica_is_left_for_the_one_that_answers_then(
    opened: AsyncEngine, own_valkey: EmbeddedValkey
) -> None:
    async with open_client(opened, own_valkey) as client:
        await client.add(account("a", "Ann"))
        with redis.Redis.from_url(own_valkey.url) as direct:
            direct.replicaof("127.0.0.1", "1")
            before = {one["id"] for one in direct.client_list()}
            for _ in range(3):
                assert await client.name_of("a") == "Ann"
            assert client.cache.stats.errors == 3
            direct.replicaof("NO", "ONE")
            async with asyncio.timeout(10):
                while not client.hits:
                    assert await client.name_of("a") == "Ann"
                    await asyncio.sleep(0.01)
            mine = {one["id"] for one in direct.client_list() if one["id"] != str(direct.client_id())}
            assert not mine & before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"document": {"id": "a"}}',
        b'{"document": {"id": "b"}, "etag": null, "carried": []}',
        b'{"document": {"id": "a", "Email": []}, "etag": null, "carried": []}',
        b'{"document": {"id": "a"}, "etag": 5, "carried": [7]}',
        b"[" * 100_000,
    ],
)
async def test_garbage_in_an_entry_is_no_answer(
    clients: tuple[Client, Client], valkey: EmbeddedValkey, body: bytes
) -> None:
    one, _ = clients
    await one.add(account("a", "Ann"))
    await one.get("a")
    await one.by_email("a@example.org")
    with redis.Redis.from_url(valkey.url) as server:
        server.hset(one.key("a"), "body", body)
        server.hset(one.email_key("a@example.org"), "body", body)
    if body:  # without one, an entry says that there is nothing: only who has seen better knows
        one.cache.seen._notes.clear()
    assert await one.name_of("a") == "Ann"
    found = await one.by_email("a@example.org")
    assert found is not None


@pytest.mark.parametrize("field", ["epoch", "version", "since", "until", "phase", "token_until", "floor_epoch"])
async def test_garbage_beside_an_entry_is_no_answer(
    clients: tuple[Client, Client], valkey: EmbeddedValkey, field: str
) -> None:
    one, other = clients
    await one.add(account("a", "Ann"))
    await one.get("a")
    with redis.Redis.from_url(valkey.url) as server:
        server.hset(one.key("a"), field, "garbage")
    await one.change("a", display_name="Anna")
    for client in clients:
        assert await client.name_of("a") == "Anna"
    assert other.cache.stats.breaker == "closed"


@pytest.mark.parametrize("write", ["SET", "LPUSH"])
async def test_something_else_at_the_place_of_an_entry_makes_way(
    clients: tuple[Client, Client], valkey: EmbeddedValkey, write: str
) -> None:
    one, other = clients
    await one.add(account("a", "Ann"))
    with redis.Redis.from_url(valkey.url) as server:
        server.delete(one.key("a"))
        server.execute_command(write, one.key("a"), "something")
    assert await one.name_of("a") == "Ann"
    assert await other.name_of("a") == "Ann"
    assert other.hits == 1


async def test_a_reader_that_failed_lets_others_read(clients: tuple[Client, Client]) -> None:
    one, other = clients
    held = Held()
    failing = asyncio.create_task(one.get("a", held))
    await held.has_read.wait()
    failing.cancel()
    await asyncio.gather(failing, return_exceptions=True)
    await one.landed()
    assert await other.get("a") is None
    assert (other.cache.stats.misses, other.cache.stats.waits) == (1, 0)


async def test_readers_of_one_process_wait_for_its_own_load_without_asking_redis(
    clients: tuple[Client, Client],
) -> None:
    one, _ = clients
    await one.add(account("a", "Ann"))
    held = Held()
    loading = asyncio.create_task(one.get("a", held))
    await held.has_read.wait()
    waiting = [asyncio.create_task(one.name_of("a")) for _ in range(5)]
    await asyncio.sleep(0.1)
    assert one.losing.asked == 1
    held.let_go.set()
    await loading
    assert await asyncio.gather(*waiting) == ["Ann"] * 5
    assert (one.loads, one.hits, one.cache.stats.waits) == (1, 5, 5)


async def test_who_waits_for_a_reader_that_never_comes_back_reads_by_itself(
    opened: AsyncEngine, valkey: EmbeddedValkey
) -> None:
    async with open_client(opened, valkey, cache_wait_ms=30) as one, open_client(opened, valkey) as other:
        await one.add(account("a", "Ann"))
        await one.cache.entries.look(one.key("a"), "of a process that was killed", one.phase.epoch)
        assert await one.name_of("a") == "Ann"
        assert (one.cache.stats.waits, one.cache.stats.bypassed, one.cache.stats.fills) == (1, 1, 0)
        assert other.loads == 0


async def test_a_timeout_of_ours_leaves_no_connection_behind(opened: AsyncEngine, own_valkey: EmbeddedValkey) -> None:
    async with open_client(opened, own_valkey, cache_timeout_ms=20) as client:
        await client.add(account("a"))
        with own_valkey.frozen():
            for _ in range(10):
                await client.cache.changed([])
                await client.get("a")
        async with asyncio.timeout(10):
            while not client.hits:
                await client.get("a")
                await asyncio.sleep(0.01)
        with redis.Redis.from_url(own_valkey.url) as direct:
            assert len(direct.client_list()) <= 12


@pytest.mark.parametrize("url", ["memcached://localhost", "localhost:6379", "redis://localhost:port/0"])
async def test_a_url_that_is_none_is_named_without_its_value(url: str) -> None:
    with pytest.raises(ConfigurationError, match="CROSSFEED_CACHE_URL") as raised:
        async with open_cache(Settings.load(cache_url=url), Mappings(MAPPINGS)):
            pass
    assert url not in str(raised.value)
