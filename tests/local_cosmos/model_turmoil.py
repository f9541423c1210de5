"""Lets writers, readers and splits loose on one container at once, under faults, and judges what they were told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.faults import (
    READS,
    WRITES,
    Budget,
    ByVersions,
    Cut,
    Delay,
    Every,
    Hold,
    Lag,
    Match,
    Operation,
    Refuse,
    Rule,
    Uniform,
    Waiting,
)
from tests.local_cosmos.model_history import Attempt, Seen
from tests.local_cosmos.model_reader import Position, ranges
from tests.local_cosmos.model_turmoil_reader import AGAIN, Follower, Reading, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.cosmos import CosmosServer
    from tests.local_cosmos.model_wire import Answer, Wire
    from tests.local_cosmos.model_world import Name

KEYS = ("p", "q", "r", "s")
IDS = ("1", "2", "3")
_some = Match(operations=WRITES | READS)
_writes = Match(operations=WRITES)
_feeds = Match(operations=frozenset({Operation.FEED}))
_short = Uniform(most=0.004)
RULES: tuple[Rule, ...] = (
    Rule(name="throttled", do=Refuse(status=429, retry_after_ms=1), on=_some, probability=0.2),
    Rule(name="burst", do=Refuse(status=429, retry_after_ms=1), on=_some, every=Every(first=4, of=20)),
    Rule(name="budget", do=Budget(ru_per_second=400, burst=20), on=_some),
    Rule(name="unavailable", do=Refuse(status=503), on=_some, probability=0.15),
    Rule(name="retry-with", do=Refuse(status=449), on=_writes, probability=0.15),
    Rule(name="unavailable-after", do=Refuse(status=503, moment="after"), on=_writes, probability=0.15),
    Rule(name="timeout-before", do=Refuse(status=408), on=_some, probability=0.1),
    Rule(name="timeout-after", do=Refuse(status=408, moment="after"), on=_writes, probability=0.2),
    Rule(name="cut-before", do=Cut(moment="before"), on=_some, probability=0.1),
    Rule(name="cut-after", do=Cut(moment="after"), on=_writes, probability=0.15),
    Rule(name="cut-middle", do=Cut(moment="middle"), on=_some, probability=0.1),
    Rule(name="slow-before", do=Delay(duration=_short, moment="before"), on=_some, probability=0.5),
    Rule(name="slow-after", do=Delay(duration=_short, moment="after"), on=_some, probability=0.5),
    Rule(name="held", do=Hold(client="timeout", seconds=0.01), on=_writes, probability=0.15),
    Rule(name="held-long", do=Hold(client="cut"), on=_writes, probability=0.1),
    Rule(name="lagging", do=Lag(behind=ByVersions(least=0, most=6)), on=Match(operations=READS), probability=0.5),
    Rule(name="stale-feed", do=Lag(behind=ByVersions(least=1, most=9)), on=_feeds, probability=0.7),
)
_UNTOUCHED = frozenset({400, 404, 409, 412, 429, 449})


@dataclass
class Turmoil:
    """One run on the container at `path`; everything that the clients draw comes from `seed`."""

    server: CosmosServer
    wire: Wire
    path: list[str]
    seed: int
    writers: int = 4
    writes: int = 20
    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Seen] = field(default_factory=list)
    events: int = 0
    numbers: int = 0
    writing: int = 0
    injected: dict[str, int] = field(default_factory=dict)

    @property
    def stored(self) -> Any:
        return self.server.account.container(self.path[1], self.path[3])

    def _event(self) -> int:
        self.events += 1
        return self.events

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers

    async def run(self, rules: list[Rule]) -> None:
        """Let all loose under the rules, end the faults, and assert that all that was told is true."""
        history = Follower(self, Random(0), [Position(r["id"], r["minInclusive"], r["maxExclusive"], "*") for r in
                                            await ranges(self.wire, self.path)], full=True)  # fmt: skip
        await history.drain(1000)  # what `*` is, is settled before the first write
        for rule in rules:
            self.server.faults.add(rule)
        readers = [Reading(self, Random(f"{self.seed}-reader-{n}")) for n in range(3)]
        self.writing = self.writers
        async with asyncio.TaskGroup() as group:
            for n in range(self.writers):
                group.create_task(self._write_on(Random(f"{self.seed}-writer-{n}")))
            group.create_task(self._split_on(Random(f"{self.seed}-splits")))
            for reader in readers:
                group.create_task(reader.read_on())
        held = self.server.faults.held
        held.release_all()
        assert not [request for request in held if isinstance(request.outcome, Waiting)]
        self.injected = self.server.faults.injected
        self.server.faults.clear()
        await history.drain(1000)
        past = history.history
        past.check(self.attempts, self.reads)
        assert await self._all() == past.latest()
        for reader in readers:
            await reader.finish(past)

    async def _all(self) -> dict[Name, int]:
        headers = {"x-ms-documentdb-isquery": "True", "x-ms-documentdb-query-enablecrosspartition": "True"}
        found: dict[Name, int] = {}
        while True:
            answer = await self.wire.send("POST", [*self.path, "docs"], headers, b'{"query":"SELECT * FROM c"}')
            assert answer.status == 200
            for document in answer.json["Documents"]:
                assert name_of(document) not in found
                found[name_of(document)] = document["n"]
            if "x-ms-continuation" not in answer.headers:
                return found
            headers["x-ms-continuation"] = answer.headers["x-ms-continuation"]

    async def _split_on(self, random: Random) -> None:
        for _ in range(3):
            await asyncio.sleep(random.random() * 0.03)
            try:
                self.stored.split(random.choice(self.stored.partitions).id)
            except CosmosError as error:
                assert error.status == 400  # noqa: PT017 - too small to be split
            self.server.account.clock.advance(1)

    async def send(self, method: str, path: list[str], headers: dict[str, str], body: bytes = b"") -> Answer | None:
        """Return the answer, None if there was none."""
        try:
            async with asyncio.timeout(5):
                return await self.wire.send(method, [*self.path, *path], headers, body)
        except (aiohttp.ClientError, ConnectionError):
            return None

    # Writers

    async def _write_on(self, random: Random) -> None:
        etags: dict[Name, str] = {}
        for _ in range(self.writes):
            key = random.choice(KEYS)
            if random.random() < 0.2:
                await self._batch(random, key)
            else:
                await self._one(random, key, etags)
        self.writing -= 1

    async def _one(self, random: Random, key: str, etags: dict[Name, str]) -> None:
        id_ = random.choice(IDS)
        name = (f'["{key}"]', id_)
        kind = random.choice(["create", "upsert", "upsert", "replace", "patch", "delete"])
        if_match = etags.get(name) if kind != "create" and random.random() < 0.5 else None
        attempt = Attempt(self._number(), name, kind, if_match, self._event())
        self.attempts.append(attempt)
        headers = {"x-ms-documentdb-partitionkey": name[0]}
        if if_match is not None:
            headers["if-match"] = if_match
        document = {"id": id_, "pk": key, "n": attempt.n, "u": random.randrange(6)}
        if random.random() < 0.1:
            document["ttl"] = 1
        body = orjson.dumps(document)
        match kind:
            case "create":
                answer = await self.send("POST", ["docs"], headers, body)
            case "upsert":
                headers["x-ms-documentdb-is-upsert"] = "True"
                answer = await self.send("POST", ["docs"], headers, body)
            case "replace":
                answer = await self.send("PUT", ["docs", id_], headers, body)
            case "patch":
                patch = {"operations": [{"op": "set", "path": "/n", "value": attempt.n}]}
                answer = await self.send("PATCH", ["docs", id_], headers, orjson.dumps(patch))
            case _:
                answer = await self.send("DELETE", ["docs", id_], headers)
        self._told(attempt, answer)
        if attempt.verdict == "done" and answer is not None and kind != "delete":
            etags[name] = answer.headers["etag"]
            if random.random() < 0.5:
                await self._read_own(attempt, answer.headers["x-ms-session-token"])

    def _told(self, attempt: Attempt, answer: Answer | None) -> None:
        attempt.ended = self._event()
        if answer is None:
            return
        attempt.status = answer.status
        if answer.status < 300:
            attempt.verdict = "done"
            attempt.etag = answer.headers.get("etag")
        elif answer.status in _UNTOUCHED:
            attempt.verdict = "refused"
        else:
            assert answer.status in {408, 503}, (answer.status, answer.body)

    async def _batch(self, random: Random, key: str) -> None:
        number, began = self._number(), self._event()
        values = random.sample(range(6), 2)
        parts: list[Attempt] = []
        operations: list[dict[str, Any]] = []
        for id_, u in zip(random.sample(IDS, 2), values, strict=True):
            part = Attempt(self._number(), (f'["{key}"]', id_), "upsert", None, began, batch=number)
            parts.append(part)
            document = {"id": id_, "pk": key, "n": part.n, "u": u}
            operations.append({"operationType": "Upsert", "resourceBody": document})
        self.attempts += parts
        headers = {
            "x-ms-documentdb-partitionkey": f'["{key}"]',
            "x-ms-cosmos-is-batch-request": "True",
            "x-ms-cosmos-batch-atomic": "True",
        }
        answer = await self.send("POST", ["docs"], headers, orjson.dumps(operations))
        for index, part in enumerate(parts):
            self._told(part, answer)
            if answer is not None and answer.status == 207:
                part.verdict = "refused"
            elif answer is not None and answer.status == 200:
                part.etag = answer.json[index]["eTag"]

    async def _read_own(self, attempt: Attempt, session: str) -> None:
        headers = {"x-ms-documentdb-partitionkey": attempt.name[0], "x-ms-session-token": session}
        answer = await self.send("GET", ["docs", attempt.name[1]], headers)
        if answer is None or answer.status in AGAIN or answer.substatus == 1002:
            return
        if answer.status == 404:
            self.reads.append(Seen(attempt.name, attempt.n, None))
        else:
            assert answer.status == 200, answer.body
            self.reads.append(Seen(attempt.name, attempt.n, answer.json["n"]))


def containers() -> Iterator[dict[str, Any]]:
    """Return the body to create a container for a run."""
    number = 0
    while True:
        number += 1
        yield {
            "id": f"c{number}",
            "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2},
            "uniqueKeyPolicy": {"uniqueKeys": [{"paths": ["/u"]}]},
            "defaultTtl": -1,
        }
