"""Says in Crossfeed's words what went wrong when the Cosmos DB client raised: the only place that knows its exceptions.

What matters about a failed write is whether it may have taken effect. The client cannot be asked: its transport turns
a connection that was cut after the request left into the very `ServiceRequestError` that "was never sent" gives. Only
the error underneath tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

import aiohttp
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
    CrossfeedError,
    DocumentRefusedError,
    OutcomeUnknownError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

RETRY_AFTER: Final = "x-ms-retry-after-ms"
NOT_FOUND: Final = 404
SERVER_ERROR: Final = 500
WRONG_CONTAINER: Final = (400, 1024)
PARTITION_FULL: Final = (403, 1014)
TOO_MANY_REQUESTS: Final = 429
BUSY: Final = (TOO_MANY_REQUESTS, 449)

DRIVER_ERRORS: Final = (AzureError, aiohttp.ClientError, TimeoutError, OSError)
"""What the client raises when a request fails; anything else is a fault of the program."""

_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class CosmosUnavailableError(StoreUnavailableError):
    """Cosmos DB did not take the request; `retry_after_s` is how long it asked to wait, in seconds, if it did."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Exists:
    """409: there is a document with this id, or one that holds the same unique key. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Changed:
    """412: the document is not the one that was read. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Missing:
    """404: there is no such document. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nothing was written, and not because of the document; `retry_after_s` in seconds if the store asked to wait.

    `is_busy`: the store is well and has too much to do, in all (429) or with this document (449).
    """

    reason: str
    retry_after_s: float | None = None
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The request may have left and its answer never came: a write may or may not have taken effect."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unacceptable:
    """The document is at fault: the same one will be refused again."""

    status: int
    reason: str


Failure = Exists | Changed | Missing | Unavailable | Unanswered | Unacceptable


def failure_of(error: BaseException) -> Failure:
    """Classify one of DRIVER_ERRORS."""
    match error:
        case CosmosBatchOperationError():
            return _of_batch(error)
        case ClientAuthenticationError():
            return Unavailable("no token could be had")
        case CosmosHttpResponseError():
            status = error.status_code or 0
            return _of_status(status, error.sub_status or 0, _retry_after(error.headers))
        case HttpResponseError():  # an answer that cannot be read, to a request that may have been carried out
            return Unanswered(f"an answer that cannot be read ({type(error).__name__})")
        case _ if _was_never_sent(error):
            return Unavailable(f"no connection ({_name(error)})")
        case _:
            return Unanswered(_name(error))


def guilty_index(error: BaseException) -> int:
    """Return which operation of a transactional batch failed; 0 where it was no batch."""
    return (error.error_index or 0) if isinstance(error, CosmosBatchOperationError) else 0


def read_error(error: BaseException, what: str) -> CrossfeedError:
    """Translate the failure of a read.

    Args:
        error: one of DRIVER_ERRORS.
        what: what was attempted, for the message; names no payload.

    """
    match failure_of(error):
        case Unacceptable(status, reason):
            return DocumentRefusedError(f"{what}: Cosmos DB refuses the request ({status}: {reason})")
        case Unavailable(reason, retry_after_s):
            return CosmosUnavailableError(f"{what}: {reason}", retry_after_s)
        case Unanswered(reason):
            return CosmosUnavailableError(f"{what}: {reason}")
        case Exists() | Changed() | Missing():
            return CosmosUnavailableError(f"{what}: unexpected status {getattr(error, 'status_code', None)}")
        case other:
            assert_never(other)


def write_error(error: BaseException, what: str) -> CrossfeedError:
    """Translate the failure of a conditional write that the caller does not resolve itself.

    Args:
        error: one of DRIVER_ERRORS.
        what: what was attempted, for the message; names no payload.

    """
    match failure_of(error):
        case Exists():
            return AlreadyExistsError(f"{what}: it exists already, or another document holds its unique key")
        case Changed() | Missing():
            return ConcurrencyError(f"{what}: it was changed or deleted since it was read")
        case Unavailable(reason, retry_after_s):
            return CosmosUnavailableError(f"{what}: {reason}", retry_after_s)
        case Unanswered(reason):
            return OutcomeUnknownError(f"{what}: sent and not answered ({reason}); it may or may not have been written")
        case Unacceptable(status, reason):
            return DocumentRefusedError(f"{what}: Cosmos DB refuses it ({status}: {reason})")
        case other:
            assert_never(other)


def _of_status(status: int, sub_status: int, retry_after_s: float | None) -> Failure:  # noqa: PLR0911 - one per answer
    described = f"status {status}/{sub_status}" if sub_status else f"status {status}"
    match status:
        case 409:
            return Exists()
        case 412:
            return Changed()
        case 404 if not sub_status:
            return Missing()
        case 413:
            return Unacceptable(status, "too large")
        case 400 if (status, sub_status) != WRONG_CONTAINER:
            return Unacceptable(status, f"bad request, sub-status {sub_status}")
        case 403 if (status, sub_status) == PARTITION_FULL:
            return Unacceptable(status, "the logical partition is full, sub-status 1014")
        case 0 | 408:
            return Unanswered(described)
        case _ if status >= SERVER_ERROR:
            return Unanswered(described)
        case _:
            return Unavailable(described, retry_after_s, status in BUSY)


def _of_batch(error: CosmosBatchOperationError) -> Failure:
    """A batch is atomic: when any operation of it was answered with an error, nothing was written."""
    responses = error.operation_responses or []
    index = error.error_index or 0
    answer = responses[index] if index < len(responses) else {}
    wait_ms = answer.get("retryAfterMilliseconds")
    failure = _of_status(
        int(error.status_code or 0),
        int(answer.get("subStatusCode") or 0),
        float(wait_ms) / 1000 if wait_ms is not None else _retry_after(error.headers),
    )
    return Unavailable(failure.reason) if isinstance(failure, Unanswered) else failure


def _retry_after(headers: Mapping[str, str] | None) -> float | None:
    value = (headers or {}).get(RETRY_AFTER)
    try:
        return float(value) / 1000 if value is not None else None
    except ValueError:
        return None


def _was_never_sent(error: BaseException) -> bool:
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, _NEVER_SENT):
            return True
        inner = getattr(inner, "inner_exception", None) or inner.__cause__
    return False


def _name(error: BaseException) -> str:
    inner = getattr(error, "inner_exception", None)
    return type(inner or error).__name__
