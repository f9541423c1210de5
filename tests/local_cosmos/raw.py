"""One container, asked request by request: nothing is retried, and the answer is what came over the wire."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from tests.local_cosmos.model_wire import HttpWire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from core.local.cosmos import CosmosServer
    from core.local.cosmos.state.container import Container
    from tests.local_cosmos.model_wire import Answer, Wire

DOCS = ["dbs", "wire", "colls", "raw", "docs"]


def create_container(server: CosmosServer) -> None:
    server.account.create_database({"id": "wire"}, None, None)
    key = {"paths": ["/pk"], "kind": "Hash", "version": 2}
    server.account.create_container("wire", {"id": "raw", "partitionKey": key, "defaultTtl": -1}, 12_000, None)


@asynccontextmanager
async def raw_container(server: CosmosServer) -> AsyncIterator[RawContainer]:
    """Yield a new container `wire/raw` of two physical partitions by `/pk`, with TTL on."""
    create_container(server)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        session._retry_connection = False  # aiohttp repeats what is idempotent, once
        yield RawContainer(HttpWire(session, server.endpoint, server.key))


def stored(server: CosmosServer) -> Container:
    return server.account.container("wire", "raw")


def statuses(answers: list[Answer]) -> list[int]:
    return [answer.status for answer in answers]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is inside the server
            await asyncio.sleep(0.002)


def keys_by_range(server: CosmosServer) -> dict[str, str]:
    """Return one partition key of each physical partition, by range id."""
    container = stored(server)
    found: dict[str, str] = {}
    for number in range(100):
        name = f"p{number}"
        found.setdefault(container.partition_of(container.key_definition.epk((name,))).id, name)
    return found


@dataclass
class RawContainer:
    """Partition keys are `p` unless another is given; `headers` go along as they are."""

    wire: Wire

    async def create(self, id_: str, pk: str = "p", *, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        return await self._write("POST", DOCS, {"id": id_, "pk": pk, **more}, pk, headers)

    async def upsert(self, id_: str, pk: str = "p", *, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        upsert = {"x-ms-documentdb-is-upsert": "True", **(headers or {})}
        return await self._write("POST", DOCS, {"id": id_, "pk": pk, **more}, pk, upsert)

    async def replace(self, id_: str, pk: str = "p", *, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        return await self._write("PUT", [*DOCS, id_], {"id": id_, "pk": pk, **more}, pk, headers)

    async def delete(self, id_: str, pk: str = "p", *, headers: dict[str, str] | None = None) -> Answer:
        return await self.wire.send("DELETE", [*DOCS, id_], _with_key(pk, headers))

    async def read(self, id_: str, pk: str = "p", *, headers: dict[str, str] | None = None) -> Answer:
        return await self.wire.send("GET", [*DOCS, id_], _with_key(pk, headers))

    async def batch(self, operations: list[dict[str, Any]], pk: str = "p") -> Answer:
        headers = {"x-ms-cosmos-is-batch-request": "True", "x-ms-cosmos-batch-atomic": "True"}
        return await self.wire.send("POST", DOCS, _with_key(pk, headers), orjson.dumps(operations))

    async def query(self, text: str = "SELECT * FROM c", *, headers: dict[str, str] | None = None) -> Answer:
        marks = {"x-ms-documentdb-isquery": "True", "x-ms-documentdb-query-enablecrosspartition": "True"}
        marks |= {"content-type": "application/query+json", **(headers or {})}
        return await self.wire.send("POST", DOCS, marks, orjson.dumps({"query": text}))

    async def feed(self, etag: str | None, *, headers: dict[str, str] | None = None, pk: str = "p") -> Answer:
        known = {} if etag is None else {"if-none-match": etag}
        asked = {"a-im": "Incremental Feed", **known, **(headers or {})}
        return await self.wire.send("GET", DOCS, _with_key(pk, asked))

    async def _write(
        self, method: str, path: list[str], body: dict[str, Any], pk: str, headers: dict[str, str] | None
    ) -> Answer:
        return await self.wire.send(method, path, _with_key(pk, headers), orjson.dumps(body))


def _with_key(pk: str, headers: dict[str, str] | None) -> dict[str, str]:
    return {"x-ms-documentdb-partitionkey": orjson.dumps([pk]).decode(), **(headers or {})}
