"""A server that is killed at any moment has lost no write that it acknowledged, and its feeds skip nothing."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from core.local.cosmos.storage.restore import open_account
from tests.local_cosmos.model_wire import CallWire, HttpWire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.local_cosmos.model_wire import Answer

DOCS = ["dbs", "db", "colls", "items", "docs"]
WRITERS = 8
BATCH = 5
Cut = (aiohttp.ClientError, ConnectionError)


@asynccontextmanager
async def served(file: Path, *within: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, HttpWire]]:
    """Run a server as a process, which is killed at the end if it is still there."""
    command = (*within, sys.executable, "-m", "core.local.cosmos", "--file", str(file))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        said = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession() as session:
            yield process, HttpWire(session, said["endpoint"], said["key"])
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def made(wire: HttpWire) -> None:
    assert (await wire.send("POST", ["dbs"], {}, b'{"id":"db"}')).status == 201
    body = {"id": "items", "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}, "defaultTtl": -1}
    throughput = {"x-ms-offer-throughput": "12000"}
    assert (await wire.send("POST", DOCS[:3], throughput, orjson.dumps(body))).status == 201


class Writer:
    """Owns the documents of one partition key, writes one thing after another, and remembers what it was told.

    `known` is what the documents were at the last answer, `possible` what they are if the last request took effect.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.n = 0
        self.known: dict[str, int] = {}
        self.possible: dict[str, int] = {}
        self.session = ""
        self.etags: set[str] = set()

    async def run(self, wire: HttpWire, chance: random.Random) -> None:
        """Write until the server is gone."""
        with suppress(*Cut):
            while True:
                await self.write(wire, chance)

    async def write(self, wire: HttpWire, chance: random.Random) -> None:
        self.n += 1
        headers = {"x-ms-documentdb-partitionkey": orjson.dumps([self.key]).decode()}
        id_ = str(chance.randrange(3))
        batch = {f"b{i}": self.n for i in range(BATCH)}
        kind = chance.choice(["upsert", "upsert", "delete", "batch"])
        if kind == "batch":
            self.possible = {**self.known, **batch}
            operations = [{"operationType": "Upsert", "resourceBody": self.body(id_)} for id_ in batch]
            headers["x-ms-cosmos-is-batch-request"] = "True"
            answer = await wire.send("POST", DOCS, headers, orjson.dumps(operations))
            assert answer.status == 200
        elif kind == "delete" and id_ in self.known:
            self.possible = {k: n for k, n in self.known.items() if k != id_}
            answer = await wire.send("DELETE", [*DOCS, id_], headers)
            assert answer.status == 204
        else:
            self.possible = {**self.known, id_: self.n}
            headers["x-ms-documentdb-is-upsert"] = "True"
            answer = await wire.send("POST", DOCS, headers, orjson.dumps(self.body(id_)))
            assert answer.status in {200, 201}
            assert answer.headers["etag"] not in self.etags
            self.etags.add(answer.headers["etag"])
        self.known = self.possible
        self.session = answer.headers["x-ms-session-token"]

    def body(self, id_: str) -> dict[str, Any]:
        return {"id": id_, "pk": self.key, "n": self.n, "text": "x" * (self.n % 50 * 20)}

    async def check(self, wire: HttpWire) -> None:
        """After a restart: everything acknowledged is there, what was under way is there wholly or not at all."""
        headers = {"x-ms-documentdb-partitionkey": orjson.dumps([self.key]).decode()}
        query = {"x-ms-documentdb-isquery": "True", "x-ms-session-token": self.session, "x-ms-max-item-count": "-1"}
        answer = await wire.send("POST", DOCS, {**headers, **query}, b'{"query":"SELECT * FROM c"}')
        assert answer.status == 200, "the session that the client has seen is not available"
        found = {row["id"]: row["n"] for row in answer.json["Documents"]}
        assert found in (self.known, self.possible)
        self.known = self.possible = found
        for id_, n in found.items():
            assert (await wire.send("GET", [*DOCS, id_], headers)).json["n"] == n


class Reader:
    """Follows the feeds of all ranges, also over splits, and remembers what they showed."""

    def __init__(self) -> None:
        self.after: dict[tuple[str, str], str] = {}
        self.latest: dict[tuple[str, str], int] = {}
        self.replayed: dict[tuple[str, str], int] = {}
        self.lsns: dict[str, int] = defaultdict(int)

    async def run(self, wire: HttpWire) -> None:
        """Read until the server is gone."""
        with suppress(*Cut):
            while True:
                await self.poll(wire)
                await asyncio.sleep(0.01)

    async def poll(self, wire: HttpWire) -> None:
        """Read every feed to its end of now."""
        ranges = (await wire.send("GET", [*DOCS[:4], "pkranges"], {})).json["PartitionKeyRanges"]
        for found in ranges:
            for mode in ("Incremental Feed", "Full-Fidelity Feed"):
                parents = [p for p in reversed(found["parents"]) if (mode, p) in self.after]
                first = self.after[mode, parents[0]] if parents else '"0"'
                self.after.setdefault((mode, found["id"]), first)
                while await self.page(wire, mode, found["id"]):
                    pass

    async def page(self, wire: HttpWire, mode: str, range_id: str) -> bool:
        headers = {"a-im": mode, "if-none-match": self.after[mode, range_id], "x-ms-max-item-count": "40"}
        headers["x-ms-documentdb-partitionkeyrangeid"] = range_id
        answer = await wire.send("GET", DOCS, headers)
        if answer.status == 410:  # split meanwhile: the next poll reads the children
            return False
        if answer.status == 200:
            self.take(mode, range_id, answer)
        assert answer.status in {200, 304}
        self.after[mode, range_id] = answer.headers["etag"]
        return answer.status == 200

    def take(self, mode: str, range_id: str, answer: Answer) -> None:
        for item in answer.json["Documents"]:
            if mode == "Incremental Feed":
                assert item["_lsn"] >= self.lsns[range_id]
                self.lsns[range_id] = item["_lsn"]
                self.latest[item["pk"], item["id"]] = item["n"]
            elif item["metadata"]["operationType"] == "delete":
                del self.replayed[item["previous"]["pk"], item["previous"]["id"]]
            else:
                known = self.replayed.get((item["current"]["pk"], item["current"]["id"]), 0)
                assert item["current"]["n"] > known, "shown twice, or out of order"
                self.replayed[item["current"]["pk"], item["current"]["id"]] = item["current"]["n"]


async def rounds(file: Path, count: int, seed: int, *, longest: float) -> int:
    """Write, kill, restart and compare `count` times; return how many writes were acknowledged."""
    chance = random.Random(seed)
    writers = [Writer(f"key {n}") for n in range(WRITERS)]
    reader = Reader()
    for number in range(count + 1):
        async with served(file) as (process, wire):
            if not number:
                await made(wire)
            for writer in writers:
                await writer.check(wire)
            await reader.poll(wire)
            state = {(writer.key, id_): n for writer in writers for id_, n in writer.known.items()}
            assert reader.replayed == state
            assert {key: reader.latest.get(key) for key in state} == state
            if number == count:
                break
            tasks = [asyncio.ensure_future(writer.run(wire, chance)) for writer in writers]
            tasks.append(asyncio.ensure_future(reader.run(wire)))
            if number == count // 2:
                tasks.append(asyncio.ensure_future(grow(wire)))
            await asyncio.sleep(chance.uniform(0.05, longest))
            process.send_signal(signal.SIGKILL)
            await asyncio.gather(*tasks)
    return sum(writer.n for writer in writers)


async def grow(wire: HttpWire) -> None:
    """Raise the throughput so far that every range is split, some more than once."""
    with suppress(*Cut):
        offer = (await wire.send("GET", ["offers"], {})).json["Offers"][0]
        offer["content"] = {"offerThroughput": 50_000}
        await wire.send("PUT", ["offers", offer["id"].lower()], {}, orjson.dumps(offer))


async def test_a_killed_server_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    assert await rounds(tmp_path / "account.db", 3, seed=3, longest=0.4) > 50


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
async def test_a_server_that_is_killed_again_and_again_has_lost_nothing(tmp_path: Path, seed: int) -> None:
    assert await rounds(tmp_path / "account.db", 15, seed, longest=1.0) > 1000


async def test_a_disk_that_fills_up_and_a_kill_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "account.db"
    headers = {"x-ms-documentdb-partitionkey": '["p"]'}
    statuses = []
    async with served(file, "sh", "-c", 'ulimit -f 800 && exec "$@"', "sh") as (process, wire):
        await made(wire)
        for n in range(100):
            body = orjson.dumps({"id": str(n), "pk": "p", "text": "x" * 8000})
            statuses.append((await wire.send("POST", DOCS, headers, body)).status)
        process.kill()
    kept = [str(n) for n, status in enumerate(statuses) if status == 201]
    assert set(statuses) == {201, 500}
    assert len(kept) > 10
    account = open_account(file)
    assert [document.id for document in account.container("db", "items").documents()] == kept
    assert (await CallWire(account).send("POST", DOCS, headers, b'{"id":"new","pk":"p"}')).status == 201
    account.close()
