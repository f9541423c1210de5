"""Memory follows the number of documents and not the number of writes, whatever is written."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from core.local.cosmos.clock import Clock
from core.local.cosmos.messages import Request
from core.local.cosmos.operations.routes import Router
from core.local.cosmos.state import partition
from core.local.cosmos.state.account import Account
from core.local.cosmos.state.epk import _epk_cached, effective_partition_key
from tests.local_cosmos.model_wire import Anyone

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTS = 200
ITEMS = ["dbs", "d", "colls", "c", "docs"]


class World:
    """A server without connections, and a clock that goes on by a second with every hundred writes."""

    def __init__(self) -> None:
        self.clock = Clock()
        account = Account(self.clock)
        account.create_database({"id": "d"}, None, None)
        key = {"paths": ["/pk"], "kind": "Hash", "version": 2}
        account.create_container("d", {"id": "c", "partitionKey": key, "defaultTtl": -1}, 12_000, None)
        self._router = Router(account, Anyone(), lambda *_: "")  # type: ignore[arg-type]
        self.writes = count(1)

    def send(
        self,
        method: str,
        key: str | None,
        body: object = None,
        id: str | None = None,  # noqa: A002 - what the address calls it
        **headers: str,
    ) -> None:
        sent = {"x-ms-documentdb-partitionkey": orjson.dumps([key]).decode()} if key is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(method, ITEMS + ([id] if id else []), sent, b"" if body is None else orjson.dumps(body))
        assert self._router.handle(request).status in {200, 201, 204, 304}

    def upsert(self, number: int, **more: Any) -> None:
        body = {"id": f"d{number}", "pk": f"p{number % 10}", "text": "x" * 50, **more}
        self.send("POST", body["pk"], body, x_ms_documentdb_is_upsert="true")


def rewritten(world: World, n: int) -> None:
    world.upsert(n % DOCUMENTS)


def expiring(world: World, n: int) -> None:
    world.upsert(n % DOCUMENTS, ttl=n % 7 + 1)
    if n % 100 == 0:
        world.clock.advance(1)


def to_expire_late(world: World, n: int) -> None:
    world.upsert(n % DOCUMENTS, ttl=100_000)


def deleted_and_created(world: World, n: int) -> None:
    world.upsert(n % DOCUMENTS)
    world.send("DELETE", f"p{n % DOCUMENTS % 10}", id=f"d{n % DOCUMENTS}")


def under_new_keys(world: World, n: int) -> None:
    world.send("POST", f"k{n}", {"id": "x", "pk": f"k{n}"})
    if n > DOCUMENTS:
        world.send("DELETE", f"k{n - DOCUMENTS}", id="x")


def patched_and_queried(world: World, n: int) -> None:
    if n <= DOCUMENTS:
        world.upsert(n % DOCUMENTS, n=0)
        return
    change = {"operations": [{"op": "incr", "path": "/n", "value": 1}]}
    world.send("PATCH", f"p{n % DOCUMENTS % 10}", change, id=f"d{n % DOCUMENTS}")
    if n % 20 == 0:
        text = f"SELECT VALUE c.n FROM c WHERE c.n != {n % 40}"
        world.send("POST", "p1", {"query": text}, x_ms_documentdb_isquery="true")


def in_batches(world: World, n: int) -> None:
    operations = [
        {"operationType": "Upsert", "resourceBody": {"id": f"d{number}", "pk": "p"}}
        for number in range(n % 5, n % 5 + 5)
    ]
    world.send("POST", "p", operations, x_ms_cosmos_is_batch_request="true")


def with_all_versions_kept(world: World, n: int) -> None:
    if n == 1:
        for range_id in ("0", "1"):
            headers = {"a_im": "Full-Fidelity Feed", "if_none_match": "*"}
            world.send("GET", None, x_ms_documentdb_partitionkeyrangeid=range_id, **headers)
    world.upsert(n % DOCUMENTS)


@pytest.mark.parametrize(
    "write",
    [
        rewritten,
        expiring,
        to_expire_late,
        deleted_and_created,
        under_new_keys,
        patched_and_queried,
        in_batches,
        with_all_versions_kept,
    ],
    ids=lambda write: write.__name__,
)
def test_documents_written_over_and_over_take_no_more_memory(
    write: Callable[[World, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "HISTORY_LIMIT", 100)
    monkeypatch.setattr(partition, "COMPACT_MINIMUM", 100)
    world = World()
    for number in range(_epk_cached.cache_parameters()["maxsize"]):
        effective_partition_key((number,), "Hash", 2)

    def highest(writes: int) -> int:
        """Return the most memory blocks in use meanwhile; lists that are compacted now and then go up and down."""
        most = 0
        for number in range(writes):
            write(world, next(world.writes))
            if number % 50 == 0:
                most = max(most, sys.getallocatedblocks())
        return most

    gc.collect()
    highest(1000)
    before = highest(1000)
    highest(2000)
    after = highest(1000)
    assert after - before < 750, "a block for every fourth write"


def test_superseded_versions_of_a_large_document_take_no_memory() -> None:
    world = World()
    tracemalloc.start()
    try:
        for ttl in (-1, 1000):
            for _ in range(100):
                world.upsert(1, large="x" * 500_000, ttl=ttl)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * 2**20


def test_kept_versions_of_large_documents_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "HISTORY_BYTES", 2_000_000)
    monkeypatch.setattr(partition, "COMPACT_BYTES", 1_000_000)
    world = World()
    tracemalloc.start()
    try:
        with_all_versions_kept(world, 1)
        for _ in range(300):
            world.upsert(1, large="x" * 100_000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 * 2**20
