"""Runs scripts of operations on one container against a server while it asserts every promise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

import orjson

from core.local.cosmos.errors import CosmosError
from tests.local_cosmos.model_asker import Asker
from tests.local_cosmos.model_reader import FIRST, LAST, HistoryReader, Position, Reader, Scope, ranges
from tests.local_cosmos.model_script import (
    IDS,
    KEYS,
    Ask,
    Batch,
    Drop,
    Follow,
    Keep,
    Poll,
    Read,
    Rest,
    Resume,
    Retention,
    Split,
    Step,
    Tick,
)
from tests.local_cosmos.model_world import Name, Write
from tests.local_cosmos.model_writer import Order, Outcome

if TYPE_CHECKING:
    from tests.local_cosmos.model_clock import StillClock
    from tests.local_cosmos.model_writer import Writer

WRONG = '"00000000-0000-0000-0000-000000000000"'


@dataclass
class Runner(Asker):
    """Runs one script on one container."""

    clock: StillClock = field(kw_only=True)
    writer: Writer = field(kw_only=True)
    readers: list[Reader] = field(default_factory=list)
    saved: list[Reader] = field(default_factory=list)
    etags: set[str] = field(default_factory=set)
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes_etag: str | None = None

    async def run(self, script: list[Step]) -> None:
        """Run a script and assert at its end that every reader, query and count agrees with the model."""
        await self._route()
        await self._begin(Follow("whole", 0, "now", history=True))
        await self._begin(Follow("whole", 0, "beginning", history=False))
        self.saved.extend(reader.copy() for reader in self.readers)
        for step in script:
            await self.step(step)
        await self.finish()

    async def step(self, step: Step) -> None:  # noqa: C901, PLR0912 - a dispatch
        match step:
            case Rest():
                pass
            case Write():
                await self._write(step)
            case Batch():
                await self._batch(step)
            case Drop(key):
                await self.writer.drop(self.key(key))
                self.world.drop(self.key(key))
            case Tick(seconds):
                if seconds < 0:  # the server looks at its clock when it is asked: what is over must be over before
                    await self._read((self.key(0), "0"))
                self.clock.advance(seconds)
                self.world.expire(self.clock.now())
            case Retention(default_ttl):
                await self._retain(default_ttl)
            case Split():
                self._split(step)
                await self._route()
            case Follow():
                await self._begin(step)
            case Poll(reader, size, pages):
                chosen = self.readers[reader % len(self.readers)]
                await chosen.poll(self.wire, self.path, self.world, self.epk, size, pages)
            case Keep(reader):
                self.saved.append(self.readers[reader % len(self.readers)].copy())
            case Resume(saved):
                self.readers.append(self.saved[saved % len(self.saved)].copy())
            case Ask():
                await self._ask(step, self.step)
            case Read(key, id_):
                await self._read((self.key(key), str(id_)))
            case _:
                assert_never(step)

    async def finish(self) -> None:
        """Drain every reader, those of all saved continuations too, and compare all that can be asked for."""
        for index, reader in enumerate([*self.readers, *self.saved]):
            await reader.poll(self.wire, self.path, self.world, self.epk, index % 3 + 1, 1000)
            reader.drained(self.world, self._in(reader.scope))
        for key in range(KEYS):
            for id_ in range(IDS):
                await self._read((self.key(key), str(id_)))
            await self._ask(Ask("ordered", key, 2, ()), self.step)
        await self._ask(Ask("all", 0, 2, ()), self.step)
        await self._ask(Ask("count", 0, 2, ()), self.step)
        await self._count()

    # Writes

    def _order(self, write: Write, index: int) -> Order:
        name = self.world.name(write)
        state = self.world.documents.get(name)
        etag = {"none": None, "wrong": WRONG, "right": state.etag if state else None}[write.match]
        return Order(write.kind, name[1], self.world.body(name, self.world.number(index), write.u, write.ttl), etag)

    async def _write(self, write: Write) -> None:
        if write.kind == "create":
            write = Write(write.kind, write.key, write.id, "none", write.u, write.ttl)
        outcome = await self.writer.one(self.key(write.key), self._order(write, 0))
        statuses, _ = self.world.run((write,), int(self.clock.now()))
        assert outcome.statuses in (statuses, [0]), (outcome.statuses, statuses)
        self._learn((write,), outcome)

    async def _batch(self, batch: Batch) -> None:
        orders: list[Order] = []
        parts: list[Write] = []
        for index, part in enumerate(batch.parts):
            # An etag is right only until the batch itself writes the document.
            seen = any(part.id == earlier.id for earlier in parts)
            match = "none" if part.kind == "create" or (seen and part.match == "right") else part.match
            parts.append(Write(part.kind, batch.key, part.id, match, part.u, part.ttl))
            orders.append(self._order(parts[-1], index))
        outcome = await self.writer.batch(self.key(batch.key), orders)
        statuses, _ = self.world.run(tuple(parts), int(self.clock.now()))
        assert outcome.statuses == statuses, (outcome.statuses, statuses)
        self._learn(tuple(parts), outcome)

    def _learn(self, writes: tuple[Write, ...], outcome: Outcome) -> None:
        """Take over etags and LSNs from an answer, and assert that they and the documents shown are right."""
        if any(status >= 400 for status in outcome.statuses):
            return
        assert outcome.session == f"{self._range_of(self.key(writes[0].key))}:-1#{outcome.lsn}"
        self.sessions[self.key(writes[0].key)] = outcome.session
        last: dict[Name, dict[str, Any]] = {}
        for write, document in zip(writes, outcome.documents, strict=True):
            assert (document is None) is (write.kind == "delete")
            if document is None:
                last.pop(self.world.name(write), None)
                continue
            assert document["_etag"] not in self.etags, "an etag was given twice"
            self.etags.add(document["_etag"])
            assert document["_ts"] == int(self.clock.now())
            last[self.world.name(write)] = document
        for name, document in last.items():
            state = self.world.documents[name]
            assert self.world.name_of(document) == name
            assert (document["n"], document["u"], document.get("ttl")) == (state.n, state.u, state.ttl)
            self.world.answered(name, document["_etag"], outcome.lsn)

    async def _retain(self, default_ttl: int | None) -> None:
        body: dict[str, Any] = {"id": self.path[3], "partitionKey": self.world.shape.definition}
        if default_ttl is not None:
            body["defaultTtl"] = default_ttl
        answer = await self.wire.send("PUT", self.path, {}, orjson.dumps(body))
        assert answer.status == 200, answer.body
        self.world.default_ttl = default_ttl
        self.world.expire(self.clock.now())

    def _split(self, split: Split) -> None:
        partition = self.stored.partitions[split.index % len(self.stored.partitions)]
        boundary = None
        if split.key is not None:
            boundary = self.epk(self.key(split.key))
            if not partition.minimum < boundary < partition.maximum:
                boundary = None
        try:
            children = self.stored.split(partition.id, boundary)
        except CosmosError as error:
            assert error.status == 400  # noqa: PT017 - too small to be split
            return
        assert len(children) == 2
        assert not {child.id for child in children} & self.routes.keys(), "the id of a range was used again"

    async def _route(self) -> None:
        """Bring a client's map of the partitions up to date by what changed, as the SDK does."""
        for _ in range(10):
            headers = {"a-im": "Incremental Feed"}
            if self.routes_etag is not None:
                headers["if-none-match"] = self.routes_etag
            answer = await self.wire.send("GET", [*self.path, "pkranges"], headers)
            self.routes_etag = answer.headers["etag"]
            if answer.status == 304:
                break
            self.routes |= {one["id"]: one for one in answer.json["PartitionKeyRanges"]}
        else:
            raise AssertionError("the partition key ranges do not end")
        gone = {parent for one in self.routes.values() for parent in one["parents"]}
        known = {one["id"] for one in self.routes.values()} - gone
        assert known == {one["id"] for one in await ranges(self.wire, self.path)}

    # Readers

    async def _begin(self, follow: Follow) -> None:  # noqa: C901, PLR0912 - every kind of start
        found = await ranges(self.wire, self.path)
        scope, positions = Scope(), []
        if follow.what in {"key", "prefix"}:
            key = orjson.loads(self.key(follow.key))
            part = key[:1] if follow.what == "prefix" else key
            scope = Scope(key=orjson.dumps(part).decode(), whole_key=len(part) == len(key))
            low, high = self._bounds(part)
        elif follow.what == "slice":
            low, high = sorted([self.epk(self.key(follow.key)), self.epk(self.key((follow.key + 1) % KEYS))])
            scope = Scope(low, high)
        elif follow.what == "range":
            chosen = found[follow.key % len(found)]
            low, high = chosen["minInclusive"], chosen["maxExclusive"]
            scope = Scope(low, high)
        else:
            low, high = FIRST, LAST
        start = None if follow.start == "beginning" and not follow.history else "*" if follow.start != "time" else None
        if follow.history:
            start = "*"
        for one in found:
            first, last = max(low, one["minInclusive"]), min(high, one["maxExclusive"])
            if first < last:
                positions.append(Position(one["id"], first, last, start))
        if scope.whole_key:
            assert len(positions) == 1
            positions[0].range_id = None  # a whole key is found by the server
        if follow.history:
            reader: Reader = HistoryReader(scope, positions)
            reader.taken = {name: len(changes) for name, changes in self.world.versions.items()}  # type: ignore[attr-defined]
        else:
            reader = Reader(scope, positions)
            if follow.start == "time":
                reader.since = int(self.clock.now())
            if follow.start == "now":
                reader.exempt = {name: state.n for name, state in self.world.documents.items()}
        if start == "*":
            await reader.poll(self.wire, self.path, self.world, self.epk, 3, 1000)
        self.readers.append(reader)

    def _bounds(self, part: list[Any]) -> tuple[str, str]:
        definition = self.stored.key_definition
        low = str(definition.epk(definition.of_header(orjson.dumps(part).decode())))
        return low, low + ("0" if len(part) == len(definition.paths) else LAST)
