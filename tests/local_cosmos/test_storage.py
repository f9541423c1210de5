"""The file of an account: what it keeps, who may open it, how large it gets."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from azure.core import MatchConditions
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from core.local.cosmos import Clock, CosmosServer
from core.local.cosmos.errors import CosmosError
from core.local.cosmos.state import partition
from core.local.cosmos.state.transaction import Transaction
from core.local.cosmos.storage.restore import open_account
from tests.local_cosmos.storage_state import difference, in_memory
from tests.local_cosmos.storage_steps import BY_PK, connection_of, items, put, remove

if TYPE_CHECKING:
    from pathlib import Path

    from core.local.cosmos.state.account import Account


async def test_tokens_of_queries_feeds_and_sessions_stay_valid_over_a_restart(file: Path) -> None:
    async with CosmosServer(file=file) as server, CosmosClient(server.endpoint, server.key) as client:
        database = await client.create_database("db")
        container = await database.create_container("items", PartitionKey("/pk"), offer_throughput=12_000)
        written = [await container.upsert_item({"id": str(n), "pk": f"p{n}", "n": n}) for n in range(12)]
        pages: Any = container.query_items("SELECT * FROM c", max_item_count=5).by_page()
        first = [row["id"] async for row in await anext(pages)]
        query_token = pages.continuation_token
        feed = container.query_items_change_feed(start_time="Beginning")
        assert len([row async for row in feed]) == 12
        feed_token = container.client_connection.last_response_headers["etag"]
        ranges = [found async for found in container.read_feed_ranges()]
        port = server.port
        await server.stop()
        await server.start()
        assert server.port == port
        rest = container.query_items("SELECT * FROM c", max_item_count=5).by_page(query_token)
        found = first + [row["id"] async for page in rest async for row in page]
        assert sorted(found, key=int) == [str(n) for n in range(12)]
        changed = await container.replace_item(
            "11",
            {"id": "11", "pk": "p11", "n": 99},
            etag=written[11]["_etag"],
            match_condition=MatchConditions.IfNotModified,
        )
        assert changed["_rid"] == written[11]["_rid"]
        assert changed["_etag"] not in {document["_etag"] for document in written}
        again = container.query_items_change_feed(continuation=feed_token)
        assert [row["n"] async for row in again] == [99]
        assert [found async for found in container.read_feed_ranges(force_refresh=True)] == ranges
        assert (await container.read_item("11", "p11"))["n"] == 99


def test_ids_and_etags_of_what_is_gone_are_not_given_again(account: Account, file: Path) -> None:
    put(account, {"id": "gone", "pk": "p"})
    gone = Transaction(account, items(account), ("p",)).read("gone")
    lsns = [partition.lsn for partition in items(account).partitions]
    remove(account, "gone")
    dropped = account.create_container("db", {"id": "dropped", **BY_PK}, None, None).properties
    account.delete_container("db", "dropped")
    account.close()
    account = open_account(file)
    put(account, {"id": "gone", "pk": "p"})
    again = Transaction(account, items(account), ("p",)).read("gone")
    made = account.create_container("db", {"id": "dropped", **BY_PK}, None, None).properties
    assert again.rid > gone.rid
    assert again.etag != gone.etag
    assert made["_rid"] != dropped["_rid"]
    assert made["_etag"] != dropped["_etag"]
    assert sum(partition.lsn for partition in items(account).partitions) == sum(lsns) + 2
    account.close()


async def test_the_clock_stands_where_it_stood_and_what_expired_meanwhile_is_gone(account: Account, file: Path) -> None:
    account.clock.advance(70)
    account.close()
    account = open_account(file, clock := Clock())
    assert clock.offset == 70
    assert len(list(items(account).documents())) == 4
    clock.advance(70)
    items(account).expire()
    assert [document.id for document in items(account).documents()] == ["0", "1", "2"]
    account.close()


def test_a_clock_that_was_moved_before_keeps_its_own_time(account: Account, file: Path) -> None:
    account.clock.advance(70)
    account.close()
    clock = Clock()
    clock.advance(-5)
    open_account(file, clock).close()
    assert clock.offset == -5
    open_account(file, again := Clock()).close()
    assert again.offset == -5


def test_the_file_does_not_grow_with_updates(account: Account, file: Path) -> None:
    def size() -> int:
        return sum(part.stat().st_size for part in file.parent.iterdir())

    for n in range(300):
        put(account, *[{"id": str(i), "pk": "p", "n": n, "text": "x" * (n % 7 * 6000)} for i in range(20)])
    assert size() < 50_000_000  # 108 MB were written
    account.close()
    assert size() < 1_000_000


def test_the_history_in_the_file_is_bounded_as_in_memory(
    account: Account, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "HISTORY_LIMIT", 20)
    items(account).keep_history()
    items(account).split("0")
    for n in range(30):
        for key in ("p", "q", "r", "s"):
            put(account, {"id": "a", "pk": key, "n": n}, {"id": "b", "pk": key, "n": n}, {"id": "a", "pk": key})
    assert connection_of(account).execute("SELECT count(*) FROM history").fetchone()[0] <= 3 * 43
    before = in_memory(account)
    account.close()
    again = open_account(file)
    assert difference(in_memory(again), before) == ""
    assert all(p.history_start > 20 for p in items(again).partitions if p.by_rid)
    again.close()


def test_unique_keys_hold_for_documents_of_before(file: Path) -> None:
    account = open_account(file)
    account.create_database({"id": "db"}, None, None)
    policy = {"uniqueKeys": [{"paths": ["/mail"]}]}
    account.create_container("db", {"id": "items", **BY_PK, "uniqueKeyPolicy": policy}, None, None)
    put(account, {"id": "a", "pk": "p", "mail": "x"})
    account.close()
    account = open_account(file)
    with pytest.raises(CosmosError, match="Unique index"):
        put(account, {"id": "b", "pk": "p", "mail": "x"})
    account.close()


def test_history_that_a_view_of_the_past_is_asked_for_is_kept_by_the_container_itself(account: Account) -> None:
    copy(items(account)).keep_history()
    assert items(account).keeps_history


def test_a_ttl_that_nobody_looked_at_when_it_was_written_is_the_containers(file: Path) -> None:
    account = open_account(file)
    account.create_database({"id": "db"}, None, None)
    account.create_container("db", {"id": "items", "partitionKey": BY_PK["partitionKey"]}, None, None)
    put(account, {"id": "a", "pk": "p", "ttl": "soon"}, {"id": "b", "pk": "p", "ttl": 9}, {"id": "c", "pk": "p"})
    account.replace_container("db", "items", orjson.loads(b'{"id":"items","defaultTtl":50}'))
    lives = [document.expires - document.ts for document in items(account).documents() if document.expires]
    assert lives == [50, 9, 50]
    account.close()
