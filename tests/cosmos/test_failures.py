"""Which failures are whose fault, and whether a write may have taken effect."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosClientTimeoutError, CosmosHttpResponseError

from core.cosmos.failures import (
    Changed,
    CosmosUnavailableError,
    Exists,
    Failure,
    Missing,
    Unacceptable,
    Unanswered,
    Unavailable,
    failure_of,
    read_error,
    write_error,
)
from core.errors import (
    AlreadyExistsError,
    ConcurrencyError,
    DocumentRefusedError,
    OutcomeUnknownError,
    StoreUnavailableError,
)


class Response:
    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.headers = headers
        self.reason = "because"

    def text(self, *_: Any) -> str:
        return "SECRET"


def http(status: int, sub_status: int = 0, retry_after_ms: int | None = None) -> CosmosHttpResponseError:
    headers = {"x-ms-substatus": str(sub_status)} if sub_status else {}
    if retry_after_ms is not None:
        headers["x-ms-retry-after-ms"] = str(retry_after_ms)
    return CosmosHttpResponseError(message="SECRET", response=Response(status, headers))  # type: ignore[no-untyped-call]


def batch(index: int, *answers: dict[str, Any], headers: dict[str, str] | None = None) -> CosmosBatchOperationError:
    return CosmosBatchOperationError(  # type: ignore[no-untyped-call]
        error_index=index,
        headers=headers or {},
        status_code=answers[index]["statusCode"],
        message="SECRET",
        operation_responses=list(answers),
    )


@pytest.mark.parametrize(
    ("status", "sub_status", "kind"),
    [
        (400, 0, Unacceptable),
        (400, 1001, Unacceptable),
        (400, 1024, Unavailable),
        (401, 0, Unavailable),
        (403, 0, Unavailable),
        (403, 3, Unavailable),
        (403, 1014, Unacceptable),
        (404, 0, Missing),
        (404, 1002, Unavailable),
        (404, 1003, Unavailable),
        (408, 0, Unanswered),
        (409, 0, Exists),
        (410, 1002, Unavailable),
        (410, 1007, Unavailable),
        (412, 0, Changed),
        (413, 0, Unacceptable),
        (418, 0, Unavailable),
        (424, 0, Unavailable),
        (429, 3200, Unavailable),
        (449, 0, Unavailable),
        (500, 0, Unanswered),
        (503, 0, Unanswered),
    ],
)
def test_a_status_is_a_conflict_infrastructure_or_the_documents_fault(
    status: int, sub_status: int, kind: type[Failure]
) -> None:
    assert isinstance(failure_of(http(status, sub_status)), kind)


def test_the_wait_that_was_asked_for_is_kept_in_seconds() -> None:
    assert failure_of(http(429, 3200, 1500)) == Unavailable("status 429/3200", 1.5, is_busy=True)
    assert failure_of(http(449, 0, 7)) == Unavailable("status 449", 0.007, is_busy=True)
    assert failure_of(http(429)) == Unavailable("status 429", None, is_busy=True)


@pytest.mark.parametrize(
    "error",
    [
        ServiceRequestError("x", error=aiohttp.ConnectionTimeoutError()),
        aiohttp.ConnectionTimeoutError(),
        ClientAuthenticationError("no token"),
    ],
    ids=["connect", "bare", "token"],
)
def test_what_was_never_sent_is_certainly_not_written(error: Exception) -> None:
    assert isinstance(failure_of(error), Unavailable)
    assert isinstance(write_error(error, "x"), StoreUnavailableError)


@pytest.mark.parametrize(
    "error",
    [
        # The transport calls these "request errors", as if they had never been sent.
        ServiceRequestError("x", error=aiohttp.ServerDisconnectedError()),
        ServiceRequestError("x", error=aiohttp.ClientOSError(104, "reset")),
        ServiceRequestError("x", error=aiohttp.ClientPayloadError()),
        ServiceRequestError("x"),
        ServiceResponseError("x", error=TimeoutError()),
        CosmosClientTimeoutError(),  # type: ignore[no-untyped-call]
        DecodeError("x"),
        IncompleteReadError("x"),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda error: type(getattr(error, "inner_exception", None) or error).__name__,
)
def test_what_may_have_been_sent_is_unknown_for_a_write_and_unavailable_for_a_read(error: Exception) -> None:
    assert isinstance(failure_of(error), Unanswered)
    assert isinstance(write_error(error, "x"), OutcomeUnknownError)
    assert isinstance(read_error(error, "x"), StoreUnavailableError)


def test_a_batch_fails_for_the_reason_of_the_guilty_operation() -> None:
    innocent = {"statusCode": 424}
    assert failure_of(batch(1, innocent, {"statusCode": 409}, innocent)) == Exists()
    assert failure_of(batch(0, {"statusCode": 412}, innocent)) == Changed()
    assert isinstance(failure_of(batch(0, {"statusCode": 413})), Unacceptable)
    throttled = batch(1, innocent, {"statusCode": 429, "retryAfterMilliseconds": 40})
    assert failure_of(throttled) == Unavailable("status 429", 0.04, is_busy=True)
    full = batch(0, {"statusCode": 403, "subStatusCode": 1014})
    assert isinstance(failure_of(full), Unacceptable)


def test_an_answered_batch_leaves_no_doubt_that_nothing_was_written() -> None:
    assert isinstance(failure_of(batch(0, {"statusCode": 408})), Unavailable)
    assert isinstance(failure_of(batch(0, {"statusCode": 424})), Unavailable)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (http(409), AlreadyExistsError),
        (http(412), ConcurrencyError),
        (http(404), ConcurrencyError),
        (http(404, 1003), StoreUnavailableError),
        (http(429, 3200, 10), CosmosUnavailableError),
        (http(413), DocumentRefusedError),
        (http(500), OutcomeUnknownError),
    ],
)
def test_a_failed_write_is_one_of_our_errors_and_shows_no_payload(error: Exception, expected: type[Exception]) -> None:
    translated = write_error(error, "committing Note 'n1'")
    assert isinstance(translated, expected)
    assert str(translated).startswith("committing Note 'n1'")
    for each in (translated, read_error(error, "reading")):
        assert "SECRET" not in str(each)
