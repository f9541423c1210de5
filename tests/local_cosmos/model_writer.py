"""Carries out the model's writes: by the wire protocol, or by the SDK that applications use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from tests.local_cosmos.model_wire import Answer, Wire

KINDS = {"create": "Create", "upsert": "Upsert", "replace": "Replace", "patch": "Patch", "delete": "Delete"}


@dataclass(frozen=True)
class Order:
    """A write to carry out: the `body` is the whole document; `etag` is for If-Match."""

    kind: str
    id: str
    body: dict[str, Any]
    etag: str | None

    @property
    def patch(self) -> list[dict[str, Any]]:
        return [{"op": "set", "path": f"/{name}", "value": self.body[name]} for name in ("n", "batch")]


@dataclass(frozen=True)
class Outcome:
    """The status of each order, the documents that the answer shows, and the LSN of the transaction."""

    statuses: list[int]
    documents: list[dict[str, Any] | None]
    lsn: int = 0
    session: str = ""


class Writer(Protocol):
    """Writes documents of one logical partition, whose key is JSON."""

    async def one(self, key: str, order: Order) -> Outcome: ...

    async def batch(self, key: str, orders: list[Order]) -> Outcome: ...

    async def drop(self, key: str) -> None: ...


class WireWriter:
    """Writes by the wire protocol."""

    def __init__(self, wire: Wire, path: list[str]) -> None:
        self._wire = wire
        self._path = path

    async def one(self, key: str, order: Order) -> Outcome:
        headers = {"x-ms-documentdb-partitionkey": key}
        if order.etag is not None:
            headers["if-match"] = order.etag
        body = orjson.dumps(order.body)
        path = [*self._path, "docs"]
        match order.kind:
            case "create":
                answer = await self._wire.send("POST", path, headers, body)
            case "upsert":
                headers["x-ms-documentdb-is-upsert"] = "True"
                answer = await self._wire.send("POST", path, headers, body)
            case "replace":
                answer = await self._wire.send("PUT", [*path, order.id], headers, body)
            case "patch":
                body = orjson.dumps({"operations": order.patch})
                answer = await self._wire.send("PATCH", [*path, order.id], headers, body)
            case _:
                answer = await self._wire.send("DELETE", [*path, order.id], headers)
        if answer.status >= 400:
            return Outcome([answer.status], [None])
        return Outcome([answer.status], [answer.json if answer.body else None], answer.lsn, _session(answer))

    async def batch(self, key: str, orders: list[Order]) -> Outcome:
        headers = {
            "x-ms-documentdb-partitionkey": key,
            "x-ms-cosmos-is-batch-request": "True",
            "x-ms-cosmos-batch-atomic": "True",
        }
        operations: list[dict[str, Any]] = []
        for order in orders:
            operation: dict[str, Any] = {"operationType": KINDS[order.kind]}
            if order.kind not in {"create", "upsert"}:
                operation["id"] = order.id
            if order.kind != "delete":
                operation["resourceBody"] = {"operations": order.patch} if order.kind == "patch" else order.body
            if order.etag is not None:
                operation["ifMatch"] = order.etag
            operations.append(operation)
        answer = await self._wire.send("POST", [*self._path, "docs"], headers, orjson.dumps(operations))
        assert answer.status in {200, 207}, answer.body
        results = answer.json
        statuses = [result["statusCode"] for result in results]
        assert (answer.status == 200) is all(status < 400 for status in statuses)
        return Outcome(statuses, [result.get("resourceBody") for result in results], answer.lsn, _session(answer))

    async def drop(self, key: str) -> None:
        path = [*self._path, "operations", "partitionkeydelete"]
        answer = await self._wire.send("POST", path, {"x-ms-documentdb-partitionkey": key})
        assert answer.status == 200


class SdkWriter:
    """Writes by the async SDK."""

    def __init__(self, container: ContainerProxy) -> None:
        self._container = container

    async def one(self, key: str, order: Order) -> Outcome:
        container, headers = self._container, {}

        def keep(found: Any, _: Any) -> None:
            headers.update({name.lower(): value for name, value in found.items()})

        options: dict[str, Any] = {"response_hook": keep}
        if order.etag is not None:
            options |= {"etag": order.etag, "match_condition": MatchConditions.IfNotModified}
        known = partition_key(key)
        try:
            match order.kind:
                case "create":
                    document = await container.create_item(order.body, **options)
                case "upsert":
                    document = await container.upsert_item(order.body, **options)
                case "replace":
                    document = await container.replace_item(order.id, order.body, **options)
                case "patch":
                    document = await container.patch_item(order.id, known, order.patch, **options)
                case _:
                    await container.delete_item(order.id, known, **options)
                    return Outcome([204], [None], int(headers["lsn"]), headers["x-ms-session-token"])
        except CosmosHttpResponseError as error:
            return Outcome([int(error.status_code or 0)], [None])
        # The SDK tells an insert from a replace by the status alone, which it keeps for itself.
        status = 201 if order.kind == "create" else 0 if order.kind == "upsert" else 200
        return Outcome([status], [dict(document)], int(headers["lsn"]), headers["x-ms-session-token"])

    async def batch(self, key: str, orders: list[Order]) -> Outcome:
        operations: list[Any] = []
        for order in orders:
            options = {} if order.etag is None else {"if_match_etag": order.etag}
            arguments: tuple[Any, ...] = (order.body,)
            if order.kind == "replace":
                arguments = (order.id, order.body)
            elif order.kind == "patch":
                arguments = (order.id, order.patch)
            elif order.kind == "delete":
                arguments = (order.id,)
            operations.append((order.kind, arguments, options))
        try:
            results = await self._container.execute_item_batch(operations, partition_key(key))
        except CosmosBatchOperationError as error:
            statuses = [response["statusCode"] for response in error.operation_responses]
            return Outcome(statuses, [None] * len(orders))
        headers = results.get_response_headers()
        return Outcome(
            [result["statusCode"] for result in results],
            [result.get("resourceBody") for result in results],
            int(headers["lsn"]),
            headers["x-ms-session-token"],
        )

    async def drop(self, key: str) -> None:
        await self._container.delete_all_items_by_partition_key(partition_key(key))


def partition_key(key: str) -> Any:
    """Return what the SDK takes for a partition key that is JSON."""
    components = orjson.loads(key)
    return components if len(components) > 1 else components[0]


def _session(answer: Answer) -> str:
    return answer.headers["x-ms-session-token"]
