"""Sends every request to what answers it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import CosmosError, bad_request, not_found, precondition_failed, unsupported
from core.local.cosmos.messages import Request, Response, json_response
from core.local.cosmos.operations import offers
from core.local.cosmos.operations.documents import Documents
from core.local.cosmos.operations.queries import CROSS_PARTITION, filter_resources
from core.local.cosmos.values import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.local.cosmos.operations.auth import Authenticator
    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container

_NO_SCRIPTS = frozenset({"sprocs", "triggers", "udfs", "users", "permissions", "clientencryptionkeys"})


class Router:
    """Answers the requests of one account."""

    def __init__(self, account: Account, authenticator: Authenticator, endpoint: Callable[[Request], str]) -> None:
        self._account = account
        self._authenticator = authenticator
        self._endpoint = endpoint
        self._documents = Documents(account)

    def handle(self, request: Request) -> Response:  # noqa: C901, PLR0911 - a dispatch
        """Answer a request.

        Raises:
            CosmosError: whatever the request is refused with.
        """
        self._authenticator.check(request)
        match request.segments:
            case ["dbs", database, "colls", name, "docs", *rest] if len(rest) <= 1:
                container = self._container(request, database, name)
                return self._documents.handle(request, container, rest[0] if rest else None)
            case ["dbs", database, "colls", name, "pkranges"] if request.method == "GET":
                return self._ranges(request, self._container(request, database, name))
            case ["dbs", database, "colls", name, "operations", "partitionkeydelete"]:
                return self._documents.delete_partition(request, self._container(request, database, name))
            case ["dbs", database, "colls", name, "conflicts", *rest] if len(rest) <= 1:
                return _conflicts(request, self._container(request, database, name), rest)
            case ["dbs", database, "colls", name]:
                return self._one_container(request, database, name)
            case ["dbs", database, "colls"]:
                return self._containers(request, database)
            case ["dbs", database]:
                return self._one_database(request, database)
            case ["dbs"]:
                return self._databases(request)
            case ["offers", *rest] if len(rest) <= 1:
                return offers.handle(request, self._account, rest[0] if rest else None)
            case []:
                return self._account_properties(request)
            case [*_, kind] | [*_, kind, _] if kind in _NO_SCRIPTS:
                raise unsupported(kind)
        raise not_found("The requested resource does not exist: unknown path.")

    def _container(self, request: Request, database: str, name: str) -> Container:
        container = self._account.container(database, name)
        intended = request.headers.get("x-ms-cosmos-intended-collection-rid")
        if intended is not None and intended != container.properties["_rid"]:
            raise bad_request("The container was deleted and created again: its resource id differs.", 1024)
        container.expire()
        return container if request.view is None else request.view(container)

    def _account_properties(self, request: Request) -> Response:
        if request.method != "GET":
            raise _not_allowed(request)
        location = [{"name": "Local", "databaseAccountEndpoint": self._endpoint(request)}]
        return json_response(
            200,
            {
                "_self": "",
                "id": "localhost",
                "_rid": "localhost",
                "media": "//media/",
                "addresses": "//addresses/",
                "_dbs": "//dbs/",
                "writableLocations": location,
                "readableLocations": location,
                "enableMultipleWriteLocations": False,
                "userReplicationPolicy": {"asyncReplication": False, "minReplicaSetSize": 1, "maxReplicasetSize": 4},
                "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
                "systemReplicationPolicy": {"minReplicaSetSize": 1, "maxReplicasetSize": 4},
                "readPolicy": {"primaryReadCoefficient": 1, "secondaryReadCoefficient": 1},
                "queryEngineConfiguration": orjson.dumps(_ENGINE).decode(),
            },
        )

    def _databases(self, request: Request) -> Response:
        items = [database.properties for database in self._account.databases.values()]
        if request.method == "POST" and not request.is_query:
            database = self._account.create_database(request.json_object(), *offers.requested(request))
            return _resource(201, database.properties)
        return _listing(request, "Databases", "", items)

    def _one_database(self, request: Request, name: str) -> Response:
        try:
            database = self._account.database(name)
        except CosmosError as error:
            raise not_found() from error
        if request.method == "GET":
            return _resource(200, database.properties)
        if request.method == "DELETE":
            _check_current(request, database.properties)
            self._account.delete_database(name)
            return Response(204, charge=4.95)
        raise _not_allowed(request)

    def _containers(self, request: Request, database: str) -> Response:
        owner = self._account.database(database)
        if request.method == "POST" and not request.is_query:
            container = self._account.create_container(database, request.json_object(), *offers.requested(request))
            return _resource(201, container.properties, f"dbs/{database}")
        items = [container.properties for container in owner.containers.values()]
        return _listing(request, "DocumentCollections", owner.rid, items)

    def _one_container(self, request: Request, database: str, name: str) -> Response:
        try:
            container = self._account.container(database, name)
        except CosmosError as error:
            raise not_found(substatus=0 if database in self._account.databases else 1003) from error
        match request.method:
            case "GET":
                properties = container.properties
                if request.flag("x-ms-documentdb-populatepartitionstatistics"):
                    properties = {**properties, "statistics": _statistics(container)}
                usage = sum(partition.size for partition in container.partitions) // 1024
                count = sum(len(partition.by_rid) for partition in container.partitions)
                response = _resource(200, properties, f"dbs/{database}")
                if request.flag("x-ms-documentdb-populatequotainfo"):
                    response.headers["x-ms-resource-quota"] = "documentsSize=10485760;documentsCount=-1;"
                    response.headers["x-ms-resource-usage"] = f"documentsSize={usage};documentsCount={count};"
                    response.headers["x-ms-documentdb-collection-index-transformation-progress"] = "100"
                return response
            case "PUT":
                _check_current(request, container.properties)
                container = self._account.replace_container(database, name, request.json_object())
                return _resource(200, container.properties, f"dbs/{database}")
            case "DELETE":
                _check_current(request, container.properties)
                self._account.delete_container(database, name)
                return Response(204, charge=4.95)
        raise _not_allowed(request)

    def _ranges(self, request: Request, container: Container) -> Response:
        # A container that took the place of another has ranges of its own, whatever the client knows of the other's.
        rid = container.properties["_rid"]
        etag = f'"{rid}-{container.generation}"'
        owner, _, known = request.headers.get("if-none-match", "").strip('"').rpartition("-")
        seen = (whole_number(known) or 0) if owner == rid else 0
        if seen >= container.generation:
            return Response(304, headers={"etag": etag})
        share = 1 / len(container.partitions)
        ranges = [
            {
                "id": partition.id,
                "_rid": container.properties["_rid"],
                "_self": f"{container.self_link}pkranges/{partition.id}/",
                "_etag": etag,
                "_ts": container.properties["_ts"],
                "minInclusive": partition.minimum,
                "maxExclusive": partition.maximum,
                "ridPrefix": int(partition.id),
                "throughputFraction": share,
                "status": "online",
                "parents": list(partition.parents),
                "lsn": partition.lsn,
            }
            for partition in container.partitions
            if partition.generation > seen or not seen
        ]
        body = {"_rid": container.properties["_rid"], "PartitionKeyRanges": ranges, "_count": len(ranges)}
        return json_response(200, body, {"etag": etag, "x-ms-item-count": str(len(ranges))})


_ENGINE = {"maxSqlQueryInputLength": 262144, "maxJoinsPerSqlQuery": 10, "enableSpatialIndexing": False}


def _statistics(container: Container) -> list[dict[str, Any]]:
    return [
        {"id": p.id, "sizeInKB": p.size // 1024, "documentCount": len(p.by_rid), "partitionKeys": []}
        for p in container.partitions
    ]


def _conflicts(request: Request, container: Container, rest: list[str]) -> Response:
    """Answer that there are none: conflicts arise only with several write regions."""
    if rest:
        raise not_found()
    scoped = "x-ms-documentdb-partitionkey" in request.headers or request.flag(
        "x-ms-documentdb-query-enablecrosspartition"
    )
    if request.method == "POST" and not scoped:
        raise bad_request(CROSS_PARTITION)
    body = {"_rid": container.properties["_rid"], "Conflicts": [], "_count": 0}
    return json_response(200, body, {"x-ms-item-count": "0"})


def _check_current(request: Request, properties: dict[str, Any]) -> None:
    if request.headers.get("if-match", "*") not in {"*", properties["_etag"]}:
        raise precondition_failed()


def _not_allowed(request: Request) -> CosmosError:
    return CosmosError(405, f"The method {request.method} is not allowed here.")


def _resource(status: int, properties: dict[str, Any], owner: str = "") -> Response:
    headers = {"etag": properties["_etag"], "x-ms-alt-content-path": owner}
    return json_response(status, properties, headers, charge=4.95 if status == HTTPStatus.CREATED else 2.0)


def _listing(request: Request, kind: str, rid: str, items: list[dict[str, Any]]) -> Response:
    if request.method == "POST":
        items = filter_resources(request.json_object(), items)
    elif request.method != "GET":
        raise _not_allowed(request)
    token = request.headers.get("x-ms-continuation", "0")
    first = whole_number(token) or 0
    limit = request.number("x-ms-max-item-count") or -1
    page = items[first:] if limit < 0 else items[first : first + limit]
    headers = {"x-ms-item-count": str(len(page))}
    if first + len(page) < len(items):
        headers["x-ms-continuation"] = str(first + len(page))
    return json_response(200, {"_rid": rid, kind: page, "_count": len(page)}, headers)
