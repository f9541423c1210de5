"""What happens when the file of an account cannot be written: nothing, and the client is told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

from core.local.cosmos import CosmosServer
from core.local.cosmos.errors import CosmosError
from core.local.cosmos.storage.restore import open_account
from tests.local_cosmos.storage_state import difference, in_memory
from tests.local_cosmos.storage_steps import BY_PK, connection_of, items, put, remove

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from core.local.cosmos.state.account import Account


def expire(account: Account) -> None:
    items(account).expire()


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
