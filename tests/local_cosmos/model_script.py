"""Draws scripts of operations on one container, and runs them against a server while it asserts every promise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, assert_never

import orjson
from hypothesis import strategies as st

from core.local.cosmos.clock import Clock
from core.local.cosmos.errors import CosmosError
from tests.local_cosmos.model_reader import FIRST, LAST, HistoryReader, Position, Reader, Scope, ranges
from tests.local_cosmos.model_world import Name, Shape, World, Write
from tests.local_cosmos.model_writer import Order, Outcome

if TYPE_CHECKING:
    from core.local.cosmos.state.account import Account
    from tests.local_cosmos.model_wire import Answer, Wire
    from tests.local_cosmos.model_writer import Writer

KEYS = 5
IDS = 4
WRONG = '"00000000-0000-0000-0000-000000000000"'
SHAPES = (
    Shape(("/pk",), "Hash", 2, (("p",), ("q",), (1,), ("1",), (True,)), unique=False, throughput=12_000),
    Shape(("/pk",), "Hash", 2, (("p",), (None,), ({},), (1.5,), ("",)), unique=True, throughput=400),
    Shape(("/pk",), "Hash", 1, (("p",), ("q" * 120,), (-3,), (False,), ({},)), unique=False, throughput=18_000),
    Shape(("/a", "/b"), "MultiHash", 2, (("x", "1"), ("x", 1), ("y", "1"), ("y", None), ("x", {})), unique=False,
          throughput=12_000),
    Shape(("/k/pk",), "Hash", 2, (("p",), ("q",), (0,), ({},), ("é🐙",)), unique=True, throughput=30_000),
)  # fmt: skip
# Without what the SDK (4.17.1) gets wrong: its change feed takes a key that is false (False, 0, "") for none, and by V1
# it hashes an integer below 0 or above 32 bits otherwise than the same number as a float.
SDK_SHAPES = (
    Shape(("/pk",), "Hash", 2, (("p",), ("q",), (1,), ("1",), (True,)), unique=True, throughput=12_000),
    Shape(("/pk",), "Hash", 1, (("p",), ("q",), (3,), (True,), ("1",)), unique=False, throughput=18_000),
    Shape(("/a", "/b"), "MultiHash", 2, (("x", "1"), ("x", 1), ("y", "1"), ("y", "z"), ("z", 2)), unique=False,
          throughput=12_000),
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Writes of one logical partition, all or nothing."""

    key: int
    parts: tuple[Write, ...]


@dataclass(frozen=True)
class Drop:
    """Delete all documents of a partition key."""

    key: int


@dataclass(frozen=True)
class Tick:
    """Move the clock by `seconds`."""

    seconds: int


@dataclass(frozen=True)
class Retention:
    """Change the time to live of the container."""

    default_ttl: int | None


@dataclass(frozen=True)
class Split:
    """Split the `index`-th partition, at the `key`-th partition key if there is one and it lies within."""

    index: int
    key: int | None


@dataclass(frozen=True)
class Follow:
    """Start a reader of the feed."""

    what: Literal["whole", "range", "slice", "key", "prefix"]
    key: int
    start: Literal["beginning", "now", "time"]
    history: bool


@dataclass(frozen=True)
class Poll:
    """Let a reader read at most `pages` pages of `size`."""

    reader: int
    size: int
    pages: int


@dataclass(frozen=True)
class Keep:
    """Save the continuation of a reader."""

    reader: int


@dataclass(frozen=True)
class Resume:
    """Start a reader at a continuation that was saved at any time before."""

    saved: int


@dataclass(frozen=True)
class Ask:
    """Query in pages of `size`, and write after each page."""

    what: Literal["all", "key", "ordered", "prefix", "count"]
    key: int
    size: int
    meanwhile: tuple[Write | Split, ...]


@dataclass(frozen=True)
class Read:
    """Read a document with the newest session token, and with one from the future."""

    key: int
    id: int


@dataclass(frozen=True)
class Rest:
    """Do nothing: what a step of a failing script that plays no part shrinks to."""


Step: TypeAlias = Rest | Write | Batch | Drop | Tick | Retention | Split | Follow | Poll | Keep | Resume | Ask | Read

_keys = st.integers(0, KEYS - 1)
_ids = st.integers(0, IDS - 1)
_few = st.integers(0, 7)
_kinds = st.sampled_from(["upsert", "upsert", "upsert", "create", "replace", "patch", "delete"])
_matches = st.sampled_from(["none", "none", "none", "none", "right", "right", "wrong"])
_batched = st.sampled_from(["upsert", "upsert", "upsert", "upsert", "create", "replace", "patch", "delete"])
_rarely = st.sampled_from(["none", "none", "none", "none", "none", "none", "right", "wrong"])
_writes = st.builds(Write, _kinds, _keys, _ids, _matches, _few, st.sampled_from([None, None, -1, 2, 5]))
_batches = st.integers(0, KEYS - 1).flatmap(
    lambda key: st.builds(
        Batch,
        st.just(key),
        st.lists(
            st.builds(Write, _batched, st.just(key), _ids, _rarely, _few),
            min_size=1,
            max_size=6,
        ).map(tuple),
    )
)
_splits = st.builds(Split, _few, st.none() | _keys)
_follows = st.builds(
    Follow,
    st.sampled_from(["whole", "range", "slice", "key", "prefix"]),
    _keys,
    st.sampled_from(["beginning", "beginning", "now", "time"]),
    st.booleans(),
)
_polls = st.builds(Poll, _few, st.integers(1, 4), st.integers(1, 6))
_asks = st.builds(
    Ask,
    st.sampled_from(["all", "all", "all", "key", "ordered", "prefix", "count"]),
    _keys,
    st.integers(1, 2),
    st.lists(_splits | _writes, max_size=4).map(tuple),
)
_weighted: list[tuple[int, st.SearchStrategy[Step]]] = [
    (1, st.builds(Rest)),  # what shrinks comes first
    (22, _writes),
    (8, _batches),
    (3, _splits),
    (3, _follows),
    (6, _polls),
    (1, st.builds(Keep, _few)),
    (2, st.builds(Resume, _few)),
    (4, _asks),
    (1, st.builds(Read, _keys, _ids)),
    (3, st.builds(Tick, st.sampled_from([1, 2, 4, -1]))),
    (1, st.builds(Drop, _keys)),
    (2, st.builds(Retention, st.sampled_from([None, -1, 3]))),
]
steps: st.SearchStrategy[Step] = st.sampled_from([one for weight, one in _weighted for _ in range(weight)]).flatmap(
    lambda one: one
)


class StillClock(Clock):
    """Stands still between the steps of a script."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def now(self) -> float:
        return self.start + self.offset


@dataclass
class Runner:
    """Runs one script on one container of `account`, which the server at the other end of the `wire` serves."""

    account: Account
    clock: StillClock
    wire: Wire
    writer: Writer
    path: list[str]
    world: World
    readers: list[Reader] = field(default_factory=list)
    saved: list[Reader] = field(default_factory=list)
    etags: set[str] = field(default_factory=set)
    sessions: dict[str, str] = field(default_factory=dict)
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes_etag: str | None = None
    places: dict[str, str] = field(default_factory=dict)

    @property
    def stored(self) -> Any:
        return self.account.container(self.path[1], self.path[3])

    def epk(self, key: str) -> str:
        if key not in self.places:
            definition = self.stored.key_definition
            self.places[key] = str(definition.epk(definition.of_header(key)))
        return self.places[key]

    def key(self, index: int) -> str:
        return orjson.dumps(self.world.shape.keys[index]).decode()

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
                await self._ask(step)
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
            await self._ask(Ask("ordered", key, 2, ()))
        await self._ask(Ask("all", 0, 2, ()))
        await self._ask(Ask("count", 0, 2, ()))
        await self._count()

    def _in(self, scope: Scope) -> Any:
        return lambda name: scope.holds(name[0], self.epk(name[0]))

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

    def _range_of(self, key: str) -> str:
        return str(self.stored.partition_of(self.epk(key)).id)

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

    # Queries and reads

    async def _ask(self, ask: Ask) -> None:  # noqa: C901, PLR0912 - every kind of query
        key = self.key(ask.key)
        headers = {"x-ms-documentdb-isquery": "True", "x-ms-max-item-count": str(ask.size)}
        text, descending = "SELECT * FROM c", False
        scope = Scope()
        if ask.what in {"key", "ordered"}:
            scope = Scope(key=key)
        elif ask.what == "prefix":
            scope = Scope(key=orjson.dumps(orjson.loads(key)[:1]).decode())
        if scope.key is None:
            headers["x-ms-documentdb-query-enablecrosspartition"] = "True"
        else:
            headers["x-ms-documentdb-partitionkey"] = scope.key
        if ask.what == "ordered":
            descending = ask.key % 2 == 1
            text = f"SELECT * FROM c ORDER BY c.n {'DESC' if descending else 'ASC'}"
        if ask.what == "count":
            await self._ask_counts(headers)
            return
        mine = self._in(scope)
        before = {name: state.n for name, state in self.world.documents.items() if mine(name)}
        shown: list[tuple[Name, int]] = []
        todo = list(ask.meanwhile)
        body = orjson.dumps({"query": text, "parameters": []})
        for _ in range(200):
            answer = await self.wire.send("POST", [*self.path, "docs"], headers, body)
            assert answer.status == 200, answer.body
            documents = answer.json["Documents"]
            assert len(documents) <= ask.size
            assert all(self._current(document) and mine(self.world.name_of(document)) for document in documents)
            shown += [(self.world.name_of(document), document["n"]) for document in documents]
            token = answer.headers.get("x-ms-continuation")
            if token is None:
                break
            headers["x-ms-continuation"] = token
            if todo:
                await self.step(todo.pop())
        else:
            raise AssertionError("the query does not end")
        times = Counter(shown)
        assert max(times.values(), default=1) == 1, "a query showed a document twice"
        for name, n in before.items():
            now = self.world.documents.get(name)
            if now is not None and now.n == n:
                assert times[name, n] == 1, f"a query skipped {name}"
        if ask.what == "ordered":
            numbers = [n for _, n in shown]
            assert numbers == sorted(numbers, reverse=descending)

    def _current(self, document: dict[str, Any]) -> bool:
        state = self.world.documents.get(self.world.name_of(document))
        return state is not None and (state.n, state.etag) == (document["n"], document["_etag"])

    async def _ask_counts(self, headers: dict[str, str]) -> None:
        body = orjson.dumps({"query": "SELECT VALUE COUNT(1) FROM c", "parameters": []})
        total = 0
        for one in await ranges(self.wire, self.path):
            scoped = {**headers, "x-ms-documentdb-partitionkeyrangeid": one["id"]}
            answer = await self.wire.send("POST", [*self.path, "docs"], scoped, body)
            assert answer.status == 200
            total += answer.json["Documents"][0]
        assert total == len(self.world.documents)

    async def _read(self, name: Name) -> None:
        state = self.world.documents.get(name)
        path = [*self.path, "docs", name[1]]
        headers = {"x-ms-documentdb-partitionkey": name[0]}
        session = self.sessions.get(name[0])
        answer = await self.wire.send("GET", path, headers | ({"x-ms-session-token": session} if session else {}))
        self._check_read(answer, state)
        if state is not None:
            same = await self.wire.send("GET", path, {**headers, "if-none-match": state.etag})
            assert same.status == 304
        ahead = f"{self._range_of(name[0])}:-1#{self.stored.partition_of(self.epk(name[0])).lsn + 1}"
        answer = await self.wire.send("GET", path, {**headers, "x-ms-session-token": ahead})
        assert (answer.status, answer.substatus) == (404, 1002)

    def _check_read(self, answer: Answer, state: Any) -> None:
        if state is None:
            assert (answer.status, answer.substatus) == (404, 0)
            return
        assert answer.status == 200
        document = answer.json
        assert (document["n"], document["u"], document["_etag"]) == (state.n, state.u, state.etag)
        assert (document.get("ttl"), document["_ts"]) == (state.ttl, state.ts)
        assert answer.headers["etag"] == state.etag

    async def _count(self) -> None:
        asked = {"x-ms-documentdb-populatepartitionstatistics": "True", "x-ms-documentdb-populatequotainfo": "True"}
        answer = await self.wire.send("GET", self.path, asked)
        statistics = answer.json["statistics"]
        assert sum(one["documentCount"] for one in statistics) == len(self.world.documents)
        assert f"documentsCount={len(self.world.documents)};" in answer.headers["x-ms-resource-usage"]
        for partition in self.stored.partitions:
            assert partition.size == sum(len(document.raw) for document in partition.by_rid.values())
        assert sorted(one["id"] for one in statistics) == sorted(p.id for p in self.stored.partitions)
