"""Asks one container for its documents and their number, and asserts that every answer agrees with the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tests.local_cosmos.model_reader import Scope, ranges

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.local.cosmos.state.account import Account
    from tests.local_cosmos.model_script import Ask, Split
    from tests.local_cosmos.model_wire import Answer, Wire
    from tests.local_cosmos.model_world import Name, World, Write


@dataclass
class Asker:
    """Asks one container of `account`, which the server at the other end of the `wire` serves."""

    account: Account
    wire: Wire
    path: list[str]
    world: World
    sessions: dict[str, str] = field(default_factory=dict)
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

    def _in(self, scope: Scope) -> Any:
        return lambda name: scope.holds(name[0], self.epk(name[0]))

    def _range_of(self, key: str) -> str:
        return str(self.stored.partition_of(self.epk(key)).id)

    async def _ask(  # noqa: C901, PLR0912 - every kind of query
        self, ask: Ask, step: Callable[[Write | Split], Awaitable[None]]
    ) -> None:
        """Query, and let `step` write after each page."""
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
                await step(todo.pop())
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
