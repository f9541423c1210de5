"""Tells what a request is about before it is handled: its operation, the documents and partitions it touches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.faults.rules import Operation
from core.local.cosmos.operations.queries import reads
from core.local.cosmos.operations.targets import logical_partition, target_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.local.cosmos.faults.rules import Match
    from core.local.cosmos.messages import Request
    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.epk import PartitionKeyValue
    from core.local.cosmos.state.partition import PhysicalPartition

_SCOPE_HEADERS = (
    "x-ms-documentdb-partitionkey",
    "x-ms-documentdb-partitionkeyrangeid",
    "x-ms-start-epk",
    "x-ms-end-epk",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request is about; `text` is equal for requests that are about the same."""

    operation: Operation
    path: str
    headers: Mapping[str, str]
    text: str
    database: str | None = None
    container: Container | None = None
    container_name: str | None = None
    key: PartitionKeyValue | None = None
    ids: tuple[str, ...] = ()
    partitions: tuple[PhysicalPartition, ...] = ()

    def matches(self, match: Match) -> bool:
        """Say whether a rule is aimed at it."""
        key = match.partition_key
        return (
            (match.operations is None or self.operation in match.operations)
            and match.database in {None, self.database}
            and match.container in {None, self.container_name}
            and (match.range_id is None or any(came_from(p, match.range_id) for p in self.partitions))
            and (match.id is None or match.id in self.ids)
            and (match.header is None or match.header.lower() in self.headers)
            and (key is None or (self.key is not None and _same(self.key[: len(key)], key)))
        )


def came_from(partition: PhysicalPartition, range_id: str | None) -> bool:
    """Say whether a partition is the one with that range id, or came from it by splits; None is any."""
    return range_id is None or partition.id == range_id or range_id in partition.parents


def _same(found: tuple[object, ...], wanted: tuple[object, ...]) -> bool:
    # True is no 1 in JSON.
    return len(found) == len(wanted) and all(
        a == b and isinstance(a, bool) == isinstance(b, bool) for a, b in zip(found, wanted, strict=True)
    )


def describe(request: Request, account: Account) -> Subject:
    """Return what a request is about; whatever it asks for that is not there or malformed is left out."""
    operation = _operation(request)
    ids = _ids(request, operation)
    segments = list(request.segments)
    database, name = _names(segments)
    container = _container(account, database, name)
    key: PartitionKeyValue | None = None
    partitions: tuple[PhysicalPartition, ...] = ()
    if container is not None and database is not None:
        # The path may name them by their resource ids, which differ from run to run.
        segments[1] = database = account.database(database).name
        segments[3] = name = str(container.properties["id"])
        key, partitions = _touched(request, operation, container)
    path = "/".join(segments)
    scope = [request.headers.get(header, "") for header in _SCOPE_HEADERS]
    query = request.body.decode("utf-8", "replace") if operation is Operation.QUERY else ""
    text = "\n".join([operation, path, *scope, *ids, query])
    return Subject(operation, path, request.headers, text, database, container, name, key, ids, partitions)


def _names(segments: list[str]) -> tuple[str | None, str | None]:
    match segments:
        case ["dbs", database, "colls", name, *_]:
            return database, name
        case ["dbs", database, *_]:
            return database, None
    return None, None


def _container(account: Account, database: str | None, name: str | None) -> Container | None:
    if database is None or name is None:
        return None
    try:
        return account.container(database, name)
    except CosmosError:
        return None


def _operation(request: Request) -> Operation:  # noqa: C901, PLR0911 - a dispatch
    method = request.method
    match request.segments:
        case []:
            return Operation.ACCOUNT
        case ["offers", *_]:
            return Operation.OFFERS
        case ["dbs"]:
            return Operation.CREATE_DATABASE if _creates(request) else Operation.LIST_DATABASES
        case ["dbs", _]:
            return _DATABASE.get(method, Operation.OTHER)
        case ["dbs", _, "colls"]:
            return Operation.CREATE_CONTAINER if _creates(request) else Operation.LIST_CONTAINERS
        case ["dbs", _, "colls", _]:
            return _CONTAINER.get(method, Operation.OTHER)
        case ["dbs", _, "colls", _, "pkranges"]:
            return Operation.RANGES
        case ["dbs", _, "colls", _, "operations", "partitionkeydelete"]:
            return Operation.DELETE_PARTITION
        case ["dbs", _, "colls", _, "docs", _]:
            return _DOCUMENT.get(method, Operation.OTHER)
        case ["dbs", _, "colls", _, "docs"]:
            return _on_all(request)
    return Operation.OTHER


_DATABASE = {"GET": Operation.READ_DATABASE, "DELETE": Operation.DELETE_DATABASE}
_CONTAINER = {
    "GET": Operation.READ_CONTAINER,
    "PUT": Operation.REPLACE_CONTAINER,
    "DELETE": Operation.DELETE_CONTAINER,
}
_DOCUMENT = {
    "GET": Operation.READ,
    "PUT": Operation.REPLACE,
    "PATCH": Operation.PATCH,
    "DELETE": Operation.DELETE,
}


def _creates(request: Request) -> bool:
    return request.method == "POST" and not request.is_query


def _on_all(request: Request) -> Operation:
    if request.method == "GET":
        return Operation.FEED if "a-im" in request.headers else Operation.QUERY
    if request.method != "POST":
        return Operation.OTHER
    if request.flag("x-ms-cosmos-is-query-plan-request"):
        return Operation.QUERY_PLAN
    if request.is_query:
        return Operation.QUERY
    if request.flag("x-ms-cosmos-is-batch-request"):
        return Operation.BATCH
    return Operation.UPSERT if request.flag("x-ms-documentdb-is-upsert") else Operation.CREATE


def _ids(request: Request, operation: Operation) -> tuple[str, ...]:
    if operation in {Operation.READ, Operation.REPLACE, Operation.PATCH, Operation.DELETE}:
        return (request.segments[5],)
    if operation not in {Operation.CREATE, Operation.UPSERT, Operation.BATCH}:
        return ()
    try:
        body = orjson.loads(request.body)
    except (orjson.JSONDecodeError, RecursionError):
        return ()
    written = body if isinstance(body, list) else [body]
    return tuple(id_ for part in written if isinstance(part, dict) for id_ in [_id(part)] if id_ is not None)


def _id(part: dict[str, Any]) -> str | None:
    body = part.get("resourceBody")
    id_ = part.get("id") or (body.get("id") if isinstance(body, dict) else None)
    return id_ if isinstance(id_, str) else None


def _touched(
    request: Request, operation: Operation, container: Container
) -> tuple[PartitionKeyValue | None, tuple[PhysicalPartition, ...]]:
    try:
        key = container.key_definition.of_header(request.headers.get("x-ms-documentdb-partitionkey"))
        match operation:
            case Operation.QUERY if request.method == "POST":
                return key, tuple(reads(request, container).partitions)
            case Operation.QUERY | Operation.FEED:
                return key, tuple(target_of(request, container).partitions)
            case (
                Operation.CREATE
                | Operation.UPSERT
                | Operation.REPLACE
                | Operation.PATCH
                | Operation.DELETE
                | Operation.BATCH
                | Operation.DELETE_PARTITION
                | Operation.READ
            ) if key is not None and container.key_definition.is_whole(key):
                return key, tuple(logical_partition(key, container).partitions)
    except (CosmosError, RecursionError):
        return None, ()
    return key, ()
