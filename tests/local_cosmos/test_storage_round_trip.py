"""Whatever was done to an account, it is the same after its file was closed and opened again."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.local.cosmos.clock import Clock
from core.local.cosmos.errors import CosmosError
from core.local.cosmos.storage.restore import open_account
from tests.local_cosmos.model_wire import CallWire
from tests.local_cosmos.storage_state import as_seen, difference, in_memory

CONTAINERS: dict[str, dict[str, Any]] = {
    "flat": {"partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}, "defaultTtl": -1},
    "deep": {"partitionKey": {"paths": ["/pk", "/id"], "kind": "MultiHash", "version": 2}},
    "old": {"partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 1}, "defaultTtl": 1000},
    "unique": {
        "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2},
        "uniqueKeyPolicy": {"uniqueKeys": [{"paths": ["/u"]}, {"paths": ["/pk", "/n"]}]},
    },
}
containers = st.sampled_from(list(CONTAINERS))
keys = st.sampled_from(["p", "q", "r", "é\0🐙"])
ids = st.sampled_from(["1", "2", "3", "🐙 \0"])
values = st.sampled_from([0, 1.5, 1e300, 10**18, None, True, "x", {"ttl": 3}])
bodies = st.fixed_dictionaries({"u": st.integers(0, 3)}, optional={"ttl": st.sampled_from([-1, 500]), "v": values})
write = st.tuples(st.sampled_from(["create", "upsert", "replace", "delete"]), containers, keys, ids, bodies)
part = st.tuples(st.sampled_from(["Create", "Upsert", "Delete"]), ids, bodies)
scripts = st.lists(
    st.one_of(
        write,
        write,
        write,
        st.tuples(st.just("batch"), st.sampled_from(["flat", "old", "unique"]), keys, st.lists(part, min_size=1)),
        st.tuples(st.just("clear"), st.sampled_from(["flat", "old", "unique"]), keys),
        st.tuples(st.just("split"), containers, st.integers(0, 5)),
        st.tuples(st.just("ttl"), containers, st.sampled_from([None, -1, 1000])),
        st.tuples(st.just("throughput"), containers, st.sampled_from([12_000, 25_000])),
        st.tuples(st.just("clock"), st.sampled_from([-100, 600, 2000])),
        st.tuples(st.just("history"), containers),
        st.tuples(st.just("again"), containers),
        st.tuples(st.just("database"), st.booleans()),
        st.tuples(st.just("bookmark")),
        st.tuples(st.just("reopen")),
    ),
    min_size=10,
    max_size=40,
)


class World:
    """An account in a file, under operations that may be refused."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.account = open_account(file)
        self.bookmarks: dict[str, set[int]] = {}
        self.etags: set[str] = set()
        self.n = 0

    async def begin(self) -> None:
        await self.send("POST", ["dbs"], {"x-ms-offer-throughput": "1000"}, {"id": "db"})
        for name in CONTAINERS:
            await self.add(name)

    async def add(self, name: str) -> None:
        throughput = {"x-ms-offer-throughput": "12000"} if name != "deep" else {}
        await self.send("POST", ["dbs", "db", "colls"], throughput, {"id": name, **CONTAINERS[name]})

    async def send(self, method: str, path: list[str], headers: dict[str, str], body: object = None) -> int:
        raw = b"" if body is None else orjson.dumps(body)
        answer = await CallWire(self.account).send(method, path, headers, raw)
        assert answer.status < 500
        if method not in {"GET", "DELETE"} and answer.status in {200, 201} and "etag" in answer.headers:
            assert answer.headers["etag"] not in self.etags, "an etag was given twice"
            self.etags.add(answer.headers["etag"])
        return answer.status

    async def do(self, step: tuple[Any, ...]) -> None:  # noqa: C901, PLR0912 - one case per operation
        self.n += 1
        account, colls = self.account, ["dbs", "db", "colls"]
        match step:
            case ("batch", name, key, parts):
                operations = [
                    {"operationType": kind, "id": id_, "resourceBody": {"id": id_, "pk": key, "n": self.n, **more}}
                    for kind, id_, more in parts
                ]
                headers = {"x-ms-cosmos-is-batch-request": "True", "x-ms-documentdb-partitionkey": _json([key])}
                await self.send("POST", [*colls, name, "docs"], headers, operations)
            case ("clear", name, key):
                headers = {"x-ms-documentdb-partitionkey": _json([key])}
                await self.send("POST", [*colls, name, "operations", "partitionkeydelete"], headers)
            case ("split", name, index):
                container = account.container("db", name)
                with suppress(CosmosError):  # a range may be too small
                    container.split(container.partitions[index % len(container.partitions)].id)
            case ("ttl", name, ttl):
                body = {"id": name, "partitionKey": CONTAINERS[name]["partitionKey"], "defaultTtl": ttl}
                assert await self.send("PUT", [*colls, name], {}, body) == 200
            case ("throughput", name, throughput):
                rid = account.container("db", name).properties["_rid"]
                if rid in account.offers:
                    content = {"content": {"offerThroughput": throughput}}
                    assert await self.send("PUT", ["offers", account.offers[rid]["id"]], {}, content) == 200
            case ("clock", seconds):
                account.clock.advance(seconds)
            case ("history", name):
                for partition in account.container("db", name).partitions:
                    headers = {"a-im": "Full-Fidelity Feed", "if-none-match": "*"}
                    headers["x-ms-documentdb-partitionkeyrangeid"] = partition.id
                    assert await self.send("GET", [*colls, name, "docs"], headers) == 304
            case ("again", name):
                assert await self.send("DELETE", [*colls, name], {}) == 204
                await self.add(name)
            case ("database", make):
                if not make:
                    await self.send("DELETE", ["dbs", "é"], {})
                elif await self.send("POST", ["dbs"], {}, {"id": "é"}) == 201:
                    await self.send("POST", ["dbs", "é", "colls"], {}, {"id": "c é", **CONTAINERS["flat"]})
            case ("bookmark",):
                for name in CONTAINERS:
                    found = self.bookmarks.setdefault(name, set())
                    found |= {partition.lsn for partition in account.container("db", name).partitions}
            case ("reopen",):
                await self.reopen()
            case (kind, name, key, id_, more):
                await self.write(kind, [*colls, name, "docs"], key, id_, {"id": id_, "pk": key, "n": self.n, **more})

    async def write(self, kind: str, path: list[str], key: str, id_: str, body: dict[str, Any]) -> None:
        headers = {"x-ms-documentdb-partitionkey": _json([key, id_] if path[3] == "deep" else [key])}
        if kind == "upsert":
            headers["x-ms-documentdb-is-upsert"] = "True"
        match kind:
            case "create" | "upsert":
                await self.send("POST", path, headers, body)
            case "replace":
                await self.send("PUT", [*path, id_], headers, body)
            case "delete":
                await self.send("DELETE", [*path, id_], headers)

    async def reopen(self) -> None:
        for database in self.account.databases.values():
            for container in database.containers.values():
                container.expire()  # reads do it, but not that of the container itself
        seen, held = await as_seen(self.account, self.bookmarks), in_memory(self.account)
        self.account.close()
        self.account = open_account(self.file, Clock())
        assert difference(in_memory(self.account), held) == ""
        assert difference(await as_seen(self.account, self.bookmarks), seen) == ""


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


async def run(script: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory) / "account.db")
        try:
            await world.begin()
            for step in script:
                await world.do(step)
            await world.reopen()
            for name in CONTAINERS:
                await world.do(("upsert", name, "p", "new", {"u": 9}))
            await world.reopen()
        finally:
            world.account.close()


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scripts)
def test_an_account_is_the_same_after_its_file_was_closed_and_opened(script: list[tuple[Any, ...]]) -> None:
    asyncio.run(run(script))


@pytest.mark.chaos
@pytest.mark.timeout(600)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(scripts)
def test_an_account_is_the_same_after_its_file_was_closed_and_opened_in_many_ways(
    script: list[tuple[Any, ...]],
) -> None:
    asyncio.run(run(script))
