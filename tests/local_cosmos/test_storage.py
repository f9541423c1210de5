"""The file of an account: what it keeps, who may open it, how large it gets, what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
from copy import copy
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from azure.core import MatchConditions
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

from core.local.cosmos import Clock, CosmosServer
from core.local.cosmos.errors import CosmosError
from core.local.cosmos.state import partition
from core.local.cosmos.state.transaction import Transaction
from core.local.cosmos.storage.file import FORMAT, FileInUseError, StorageError
from core.local.cosmos.storage.journal import FileJournal
from core.local.cosmos.storage.restore import open_account
from tests.local_cosmos.storage_state import difference, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container

BY_PK: dict[str, Any] = {"partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}, "defaultTtl": -1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "account.db"


@pytest.fixture
def account(file: Path) -> Iterator[Account]:
    """An account in a file, with a few documents in `db/items` and a second container."""
    account = open_account(file)
    account.create_database({"id": "db"}, None, None)
    account.create_container("db", {"id": "items", **BY_PK}, 12_000, None)
    account.create_container("db", {"id": "more", **BY_PK}, 12_000, None)
    put(account, *[{"id": str(n), "pk": "p", "n": n} for n in range(3)])
    put(account, {"id": "brief", "pk": "q", "ttl": 100})
    yield account
    account.close()


def items(account: Account) -> Container:
    return account.container("db", "items")


def put(account: Account, *bodies: dict[str, Any]) -> None:
    transaction = Transaction(account, items(account), (bodies[0]["pk"],))
    for body in bodies:
        transaction.upsert(dict(body))
    transaction.commit()


def remove(account: Account, id_: str) -> None:
    transaction = Transaction(account, items(account), ("p",))
    transaction.delete(id_)
    transaction.commit()


def expire(account: Account) -> None:
    items(account).expire()


def connection_of(account: Account) -> sqlite3.Connection:
    assert isinstance(account.journal, FileJournal)
    return account.journal._connection


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


def test_an_empty_file_becomes_an_account(file: Path) -> None:
    file.touch()
    open_account(file).close()
    account = open_account(file)
    assert account.databases == {}
    account.close()


async def test_a_second_server_is_told_that_the_file_is_in_use_and_a_third_may_have_it(file: Path) -> None:
    async with CosmosServer(file=file):
        with pytest.raises(FileInUseError, match=r"account\.db is in use"):
            await CosmosServer(file=file).start()
        command = (sys.executable, "-m", "core.local.cosmos", "--file", str(file))
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (1, f"error: {file} is in use: another server has it open.\n".encode())
    async with CosmosServer(file=file):
        pass


async def test_a_server_that_cannot_listen_leaves_the_file_to_others(file: Path) -> None:
    async with CosmosServer() as first:
        with pytest.raises(Exception, match=str(first.port)):
            await CosmosServer(port=first.port, file=file).start()
        open_account(file).close()


def foreign(file: Path) -> None:
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE documents (x)")
    other.close()


def newer(file: Path) -> None:
    open_account(file).close()
    other = sqlite3.connect(file)
    other.execute(f"PRAGMA user_version = {FORMAT + 1}")
    other.close()


def damaged(file: Path) -> None:
    account = open_account(file)
    account.create_database({"id": "db"}, None, None)
    account.close()
    raw = bytearray(file.read_bytes())
    raw[4096:] = b"\x55" * (len(raw) - 4096)
    file.write_bytes(raw)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda file: file.write_text("something else" * 99), "is not a file of the embedded Cosmos DB"),
        (foreign, "is not a file of the embedded Cosmos DB"),
        (newer, f"has format {FORMAT + 1}; this version reads format {FORMAT}"),
        (damaged, "is damaged"),
        (lambda file: file.mkdir(), "is a directory"),
    ],
)
def test_a_file_that_is_no_good_is_named_with_what_is_wrong_and_left_alone(
    file: Path, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(file)
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises(StorageError, match=said) as caught:
        open_account(file)
    assert str(file) in str(caught.value)
    assert before is None or file.read_bytes() == before


def test_a_place_where_no_file_can_be_is_named(file: Path) -> None:
    with pytest.raises(StorageError, match="no directory"):
        open_account(file / "x" / "y")
    with pytest.raises(StorageError, match="null"):
        open_account(file.parent / "a\0b")
    with pytest.raises(StorageError, match="cannot be"):
        open_account(type(file)("/dev/full"))


def upsert_two(account: Account) -> None:
    put(account, {"id": "0", "pk": "p", "n": "changed"}, {"id": "new", "pk": "p"})


CHANGES: dict[str, Callable[[Account], object]] = {
    "documents": upsert_two,
    "delete": lambda account: remove(account, "0"),
    "expiry": expire,
    "history": lambda account: items(account).keep_history(),
    "split": lambda account: items(account).split("0"),
    "create database": lambda account: account.create_database({"id": "new"}, 1000, None),
    "delete database": lambda account: account.delete_database("db"),
    "create container": lambda account: account.create_container("db", {"id": "new", **BY_PK}, 12_000, None),
    "replace container": lambda account: account.replace_container("db", "items", {"id": "items", "defaultTtl": 5}),
    "delete container": lambda account: account.delete_container("db", "items"),
    "throughput": lambda account: account.change_offer(
        next(iter(account.offers.values())), {"offerThroughput": 40_000}
    ),
    "clock": lambda account: account.clock.advance(5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_cannot_be_stored_is_refused_and_has_not_happened(
    account: Account, file: Path, change: Callable[[Account], object], caplog: pytest.LogCaptureFixture
) -> None:
    if change is expire:
        account.clock.advance(200)
    before = in_memory(account)
    connection_of(account).execute("PRAGMA query_only = ON")
    for _ in range(2):
        with pytest.raises(CosmosError, match="could not be stored") as caught:
            change(account)
        assert caught.value.status == 500
        assert difference(in_memory(account), before) == ""
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    connection_of(account).execute("PRAGMA query_only = OFF")
    change(account)
    after = in_memory(account)
    assert after != before
    account.close()
    again = open_account(file)
    assert difference(in_memory(again), after) == ""
    again.close()


@pytest.mark.parametrize(
    ("change", "last"),
    [
        ("documents", "partitions"),
        ("delete", "partitions"),
        ("split", "containers"),
        ("create container", "account"),
        ("delete container", "account"),
        ("delete database", "account"),
        ("replace container", "account"),
    ],
)
def test_a_change_that_fails_half_way_leaves_nothing_in_the_file(
    account: Account, file: Path, change: str, last: str
) -> None:
    before = in_memory(account)
    fail = f"CREATE TEMP TRIGGER fail BEFORE UPDATE ON main.{last} BEGIN SELECT RAISE(FAIL, 'half way'); END"
    connection_of(account).execute(fail)
    with pytest.raises(CosmosError, match="half way"):
        CHANGES[change](account)
    assert difference(in_memory(account), before) == ""
    account.close()
    again = open_account(file)
    assert difference(in_memory(again), before) == ""
    again.close()


async def test_a_full_disk_refuses_writes_and_loses_nothing_that_was_acknowledged(file: Path) -> None:
    async with CosmosServer(file=file) as server, CosmosClient(server.endpoint, server.key, retry_total=0) as client:
        database = await client.create_database("db")
        container = await database.create_container("items", PartitionKey("/pk"))
        connection = connection_of(server.account)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
        kept: list[str] = []
        refused: list[CosmosHttpResponseError] = []
        for n in range(50):
            try:
                await container.create_item({"id": str(n), "pk": "p", "text": "x" * 3000})
                kept.append(str(n))
            except CosmosHttpResponseError as error:
                refused.append(error)
        assert 5 < len(kept) < 40
        assert all(error.status_code == 500 and "full" in error.message for error in refused)
        batch = [("create", ({"id": f"b{n}", "pk": "p", "text": "x" * 3000},)) for n in range(9)]
        with pytest.raises(CosmosHttpResponseError, match="full"):
            await container.execute_item_batch(batch, "p")
        assert [row["id"] async for row in container.read_all_items()] == kept
        assert [row["id"] async for row in container.query_items_change_feed(start_time="Beginning")] == kept
        connection.execute("PRAGMA max_page_count = 100000")
        await container.execute_item_batch(batch, "p")
        before = in_memory(server.account)
        await server.stop()
        account = open_account(file)
        assert difference(in_memory(account), before) == ""
        account.close()


def test_after_the_file_was_closed_changes_are_refused(account: Account) -> None:
    account.close()
    with pytest.raises(CosmosError, match="could not be stored"):
        upsert_two(account)
    account.clock.advance(5)  # the clock, which others may share, goes on


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
