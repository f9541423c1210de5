"""Answers the requests on the documents of a container."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING

from core.local.cosmos.errors import CosmosError, bad_request, precondition_failed, too_large, unsupported
from core.local.cosmos.messages import Request, Response
from core.local.cosmos.operations import batch, feed, patch, queries
from core.local.cosmos.operations.answers import document_headers, partition_headers, read_charge, write_charge
from core.local.cosmos.operations.targets import (
    SESSION,
    WEAKER_LEVELS,
    check_session,
    logical_partition,
    named_partition,
)
from core.local.cosmos.state.epk import MAX_EPK, MIN_EPK
from core.local.cosmos.state.partition_key import canonical
from core.local.cosmos.state.transaction import MAX_DOCUMENT, Transaction, check_match

if TYPE_CHECKING:
    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.epk import PartitionKeyValue
    from core.local.cosmos.state.partition import Document, PhysicalPartition

DEFAULT_PAGE = 100


class Documents:
    """Handles `/docs` and `/docs/{id}`."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def handle(  # noqa: C901, PLR0911 - a dispatch
        self,
        request: Request,
        container: Container,
        id_: str | None,
    ) -> Response:
        """Answer a request.

        Raises:
            CosmosError: whatever the request is refused with.
        """
        headers = request.headers
        _check_unserved(headers)
        if id_ is None:
            if request.method == "GET":
                if "a-im" in headers:
                    return self._feed(request, container)
                return queries.read_all(request, container)
            if request.method != "POST":
                raise CosmosError(405, f"The method {request.method} is not allowed here.")
            if request.flag("x-ms-cosmos-is-query-plan-request"):
                return queries.plan(request, container)
            if request.is_query:
                return queries.run(request, container)
        if len(request.body) > MAX_DOCUMENT:
            raise too_large()
        key = _required_key(request, container)
        transaction = Transaction(self._account, container, key)
        _check_range(request, transaction.partition)
        if request.method == "GET":
            check_session(request, transaction.partition)
        try:
            if id_ is None and request.flag("x-ms-cosmos-is-batch-request"):
                return batch.run(request, transaction, container)
            if id_ is None:
                return self._insert(request, transaction, container)
            if request.segments[3] == container.properties["_rid"]:
                id_ = _named(id_, transaction, container)
            return self._one(request, transaction, container, id_)
        except Exception as error:  # whatever it is, nothing may stay behind; it goes on to whoever answers
            _undo(transaction, container, error)
            raise

    def _insert(self, request: Request, transaction: Transaction, container: Container) -> Response:
        body = request.json_object()
        if request.flag("x-ms-documentdb-is-upsert"):
            document, created = transaction.upsert(body, request.headers.get("if-match"))
        else:
            document, created = transaction.create(body), True
        transaction.commit()
        return _written(request, 201 if created else 200, document, transaction.partition, container)

    def _one(self, request: Request, transaction: Transaction, container: Container, id_: str) -> Response:
        if_match = request.headers.get("if-match")
        match request.method:
            case "GET":
                document = transaction.read(id_)
                known = request.headers.get("if-none-match")
                if known is not None and known in {"*", document.etag}:
                    return Response(304, headers=document_headers(document, transaction.partition, container))
                if if_match is not None:
                    check_match(document, if_match)
                charge = read_charge(len(document.raw))
                headers = document_headers(document, transaction.partition, container)
                return Response(200, document.raw, headers, charge)
            case "PUT":
                document = transaction.replace(id_, request.json_object(), if_match)
            case "PATCH":
                old = transaction.read(id_)
                if if_match is not None:
                    check_match(old, if_match)
                document = transaction.replace(id_, patch.apply(request.json_object(), old, container))
            case "DELETE":
                size = len(transaction.read(id_).raw)
                transaction.delete(id_, if_match)
                transaction.commit()
                headers = partition_headers(transaction.partition, container)
                return Response(204, b"", headers, write_charge(size))
            case _:
                raise CosmosError(405, f"The method {request.method} is not allowed here.")
        if request.headers.get("if-none-match") == "*":
            raise precondition_failed()
        transaction.commit()
        return _written(request, 200, document, transaction.partition, container)

    def delete_partition(self, request: Request, container: Container) -> Response:
        """Delete all documents of one logical partition.

        Raises:
            CosmosError: 400 without a whole partition key, 405 for another method than POST.
        """
        if request.method != "POST":
            raise CosmosError(405, f"The method {request.method} is not allowed here.")
        key = _required_key(request, container)
        transaction = Transaction(self._account, container, key)
        for document in list(logical_partition(key, container).documents()):
            transaction.delete(document.id)
        transaction.commit()
        return Response(200, b"", partition_headers(transaction.partition, container), write_charge(0))

    def _feed(self, request: Request, container: Container) -> Response:
        headers = request.headers
        mode = headers["a-im"].lower()
        key = container.key_definition.of_header(headers.get("x-ms-documentdb-partitionkey"))
        minimum = headers.get("x-ms-start-epk", MIN_EPK).upper()
        maximum = headers.get("x-ms-end-epk", MAX_EPK).upper()
        key_bytes = None
        if key is not None and container.key_definition.is_whole(key):
            key_bytes = canonical(key)
            minimum = container.key_definition.epk(key)
            maximum = minimum + "0"
        elif key:
            minimum = container.key_definition.epk(key)
            maximum = minimum + "FF"
        partition = feed_partition(headers.get("x-ms-documentdb-partitionkeyrangeid"), container, minimum, maximum)
        check_session(request, partition)
        limit = request.number("x-ms-max-item-count")
        query = feed.FeedQuery(
            after=feed.position(headers.get("if-none-match"), partition.lsn),
            since=feed.start_time(headers.get("if-modified-since")),
            limit=limit if limit is not None and limit > 0 else (DEFAULT_PAGE if limit is None else 1 << 30),
            minimum=minimum,
            maximum=maximum,
            key=key_bytes,
        )
        if "full-fidelity" in mode:
            container.keep_history()
            page = feed.all_versions(partition, query, container.key_definition.paths)
        elif "incremental" in mode:
            page = feed.latest_versions(partition, query)
        else:
            message = f"The A-IM header {headers['a-im']!r} is not known."
            raise bad_request(message)
        answer = {"etag": f'"{page.lsn}"', **partition_headers(partition, container)}
        if not page.items:
            return Response(304, b"", answer, 1.0)
        answer["x-ms-item-count"] = str(len(page.items))
        rid = container.properties["_rid"].encode()
        body = b'{"_rid":"%b","Documents":[%b],"_count":%d}' % (rid, b",".join(page.items), len(page.items))
        return Response(200, body, answer, read_charge(len(body)))


def _undo(transaction: Transaction, container: Container, error: Exception) -> None:
    """Undo a transaction, and let a refusal tell how far its partition is, as any other answer does."""
    transaction.rollback()
    if isinstance(error, CosmosError):
        error.headers |= partition_headers(transaction.partition, container)


def _check_unserved(headers: dict[str, str]) -> None:
    """Refuse what would silently not be done: triggers, and more consistency than the account has."""
    if "x-ms-documentdb-pre-trigger-include" in headers or "x-ms-documentdb-post-trigger-include" in headers:
        raise unsupported("triggers")
    level = headers.get("x-ms-consistency-level", SESSION)
    if level != SESSION and level not in WEAKER_LEVELS:
        message = (
            f"ConsistencyLevel {level} specified in the request is invalid when service is configured with "
            f"consistency level {SESSION}. Ensure the request consistency level is not stronger than the service's."
        )
        raise bad_request(message)


def _named(rid: str, transaction: Transaction, container: Container) -> str:
    """Return the id of the document with a resource id, or the text itself where it is none."""
    try:
        raw = b64decode(rid.replace("-", "/"), validate=True)
    except ValueError:
        return rid
    document = transaction.partition.by_rid.get(int.from_bytes(raw[8:], "little"))
    return document.id if document is not None and raw[:8] == container.rid_bytes else rid


def feed_partition(range_id: str | None, container: Container, minimum: str, maximum: str) -> PhysicalPartition:
    """Return the one physical partition that a feed request reads.

    Raises:
        CosmosError: 410/1002 if it is gone or elsewhere, 400 if the request spans several.
    """
    if range_id is not None:
        return named_partition(range_id, container, minimum, maximum)
    partitions = container.overlapping(minimum, maximum)
    if len(partitions) != 1:
        raise bad_request("A change feed request must name one partition key range; this one spans several.")
    return partitions[0]


def _written(
    request: Request, status: int, document: Document, partition: PhysicalPartition, container: Container
) -> Response:
    headers = document_headers(document, partition, container)
    return Response(status, b"" if request.is_minimal else document.raw, headers, write_charge(len(document.raw)))


def _required_key(request: Request, container: Container) -> PartitionKeyValue:
    key = container.key_definition.of_header(request.headers.get("x-ms-documentdb-partitionkey"))
    if key is None:
        raise bad_request("PartitionKey value must be supplied for this operation.")
    if not container.key_definition.is_whole(key):
        raise bad_request(
            "Partition key provided either doesn't correspond to definition in the collection or doesn't match "
            "partition key field values specified in the document.",
            1001,
        )
    return key


def _check_range(request: Request, partition: PhysicalPartition) -> None:
    range_id = request.headers.get("x-ms-documentdb-partitionkeyrangeid")
    if range_id is not None and range_id != partition.id:
        raise CosmosError(410, "The partition key range of the request is gone.", 1002)
