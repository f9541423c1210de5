"""Runs a transactional batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import CosmosError, bad_request
from core.local.cosmos.messages import Request, Response
from core.local.cosmos.operations import patch
from core.local.cosmos.operations.answers import partition_headers, write_charge
from core.local.cosmos.state.transaction import check_match

if TYPE_CHECKING:
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import Document
    from core.local.cosmos.state.transaction import Transaction

MAX_OPERATIONS = 100


def run(request: Request, transaction: Transaction, container: Container) -> Response:
    """Run all operations of a batch or none; 207 tells which one failed.

    Raises:
        CosmosError: 400 for a malformed batch.
    """
    operations = _operations(request)
    results: list[dict[str, Any]] = []
    for index, operation in enumerate(operations):
        try:
            status, document = _apply(operation, transaction, container)
        except CosmosError as error:
            transaction.rollback()
            failed = [{"statusCode": 424, "requestCharge": 0.0} for _ in operations]
            failed[index] = {"statusCode": error.status, "requestCharge": 1.24}
            if error.substatus:
                failed[index]["subStatusCode"] = error.substatus
            headers = partition_headers(transaction.partition, container)
            return Response(207, orjson.dumps(failed), headers, 1.24 * len(operations))
        result: dict[str, Any] = {"statusCode": status, "requestCharge": 1.0}
        if document is not None:
            result["eTag"] = document.etag
            result["requestCharge"] = write_charge(len(document.raw))
            result["resourceBody"] = orjson.Fragment(document.raw)
        results.append(result)
    transaction.commit()
    if request.is_minimal:
        for operation, result in zip(operations, results, strict=True):
            if operation.get("operationType") != "Read":
                result.pop("resourceBody", None)
    charge = sum(result["requestCharge"] for result in results)
    return Response(200, orjson.dumps(results), partition_headers(transaction.partition, container), charge)


def _operations(request: Request) -> list[dict[str, Any]]:
    operations = request.json()
    if not isinstance(operations, list) or not all(isinstance(o, dict) for o in operations):
        raise bad_request("A batch must be a JSON array of operations.")
    if not operations:
        raise bad_request("Batch request has no operations.")
    if len(operations) > MAX_OPERATIONS:
        raise bad_request("Batch request has more operations than what is supported.")
    return operations


def _apply(operation: dict[str, Any], transaction: Transaction, container: Container) -> tuple[int, Document | None]:
    kind = operation.get("operationType")
    if_match = operation.get("ifMatch")
    if kind == "Create":
        return 201, transaction.create(_body(operation))
    if kind == "Upsert":
        document, created = transaction.upsert(_body(operation), if_match)
        return (201 if created else 200), document
    id_ = operation.get("id")
    if not isinstance(id_, str):
        raise bad_request("A batch operation lacks its id.")
    match kind:
        case "Read":
            document = transaction.read(id_)
            known = operation.get("ifNoneMatch")
            return (304, None) if known is not None and known in {"*", document.etag} else (200, document)
        case "Replace":
            return 200, transaction.replace(id_, _body(operation), if_match)
        case "Delete":
            transaction.delete(id_, if_match)
            return 204, None
        case "Patch":
            old = transaction.read(id_)
            if if_match is not None:
                check_match(old, if_match)
            return 200, transaction.replace(id_, patch.apply(_body(operation), old, container))
    message = f"The batch operation {kind!r} is not supported."
    raise bad_request(message)


def _body(operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("resourceBody")
    if type(body) is not dict:
        raise bad_request("A batch operation lacks its resourceBody.")
    return body
