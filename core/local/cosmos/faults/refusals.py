"""Builds the error answers that Cosmos DB itself sends when it cannot serve a request."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from core.local.cosmos.errors import CODES
from core.local.cosmos.messages import Response, json_response

if TYPE_CHECKING:
    from core.local.cosmos.faults.actions import Refuse

_RETRY_AFTER_MS: Final = 10
_CHARGE: Final = 0.38  # request units: what the service charges for refusing
_SUBSTATUS: Final = {429: 3200, 410: 1002, 403: 3}
_MESSAGES: Final = {
    (403, 3): "The requested operation cannot be performed at this region.",
    (403, 1014): "Partition key reached maximum size of 20 GB.",
    (404, 1002): "The read session is not available for the input session token.",
    (408, 0): "Request timed out. More info: https://aka.ms/cosmosdb-tsg-request-timeout",
    (410, 1000): "The requested resource is no longer available at the server: its name cache is stale.",
    (410, 1002): "The requested resource is no longer available at the server: partition key range is gone.",
    (410, 1007): "The requested resource is no longer available at the server: the partition is completing a split.",
    (410, 1008): "The requested resource is no longer available at the server: the partition is migrating.",
    (429, 3200): (
        "Request rate is large. More Request Units may be needed, so no changes were made. Please retry this request "
        "later. Learn more: http://aka.ms/cosmosdb-error-429"
    ),
    (449, 0): "Conflicting request to resource has been attempted. Retry to avoid conflicts.",
    (500, 0): "The server encountered an unexpected condition that prevented it from fulfilling the request.",
    (503, 0): "Service is currently unavailable. More info: https://aka.ms/cosmosdb-tsg-service-unavailable",
}


def refusal(refuse: Refuse) -> Response:
    """Return the answer of a `Refuse`."""
    return refused(refuse.status, refuse.substatus, refuse.retry_after_ms, refuse.message)


def refused(
    status: int, substatus: int | None = None, retry_after_ms: int | None = None, message: str | None = None
) -> Response:
    """Return an error answer; what is None is as Cosmos DB usually sends it with that status."""
    if substatus is None:
        substatus = _SUBSTATUS.get(status, 0)
    if retry_after_ms is None and status == HTTPStatus.TOO_MANY_REQUESTS:
        retry_after_ms = _RETRY_AFTER_MS
    if message is None:
        message = _MESSAGES.get((status, substatus), f"The request failed with status {status}.")
    headers = {"x-ms-substatus": str(substatus)} if substatus else {}
    if retry_after_ms is not None:
        headers["x-ms-retry-after-ms"] = str(retry_after_ms)
    errors = message.replace("\\", "\\\\").replace('"', '\\"')
    body = {"code": CODES.get(status, str(status)), "message": f'Message: {{"Errors":["{errors}"]}}'}
    return json_response(status, body, headers, _CHARGE)
