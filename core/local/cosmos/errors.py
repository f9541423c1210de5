"""Names every refusal of the server as the status, sub-status and message that Cosmos DB answers."""

from __future__ import annotations

from typing import Final

CODES: Final[dict[int, str]] = {
    200: "OK",
    201: "Created",
    204: "NoContent",
    207: "MultiStatus",
    304: "NotModified",
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    409: "Conflict",
    410: "Gone",
    412: "PreconditionFailed",
    413: "RequestEntityTooLarge",
    424: "FailedDependency",
    429: "TooManyRequests",
    431: "RequestHeaderFieldsTooLarge",
    449: "RetryWith",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


class CosmosError(Exception):
    """A refusal: HTTP `status`, Cosmos `substatus` (0 = none), a `message` for the caller, headers of the answer."""

    def __init__(self, status: int, message: str, substatus: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.substatus = substatus
        self.message = message
        self.headers: dict[str, str] = {}

    @property
    def code(self) -> str:
        """The `code` of the error body, such as `NotFound`."""
        return CODES[self.status]


def bad_request(message: str, substatus: int = 0) -> CosmosError:
    """Return a 400; sub-status 1001 is a partition key mismatch, 1004 asks for a query plan, 1024 a stale container."""
    return CosmosError(400, message, substatus)


def unsupported(feature: str) -> CosmosError:
    """Return the 400 that names a feature this server does not have."""
    return CosmosError(400, f"Not supported by the embedded Cosmos DB server: {feature}.")


def not_found(message: str = "Resource Not Found.", substatus: int = 0) -> CosmosError:
    """Return a 404; sub-status 1002 is a session not yet available, 1003 a missing owner."""
    return CosmosError(404, message, substatus)


def conflict(message: str = "Resource with specified id or name already exists.") -> CosmosError:
    """Return a 409."""
    return CosmosError(409, message)


def precondition_failed() -> CosmosError:
    """Return the 412 of an If-Match or If-None-Match that does not hold."""
    return CosmosError(412, "One of the specified pre-condition is not met.")


def gone(message: str, substatus: int = 1002) -> CosmosError:
    """Return a 410; sub-status 1002 is a partition key range that is gone, 1007 a split in progress."""
    return CosmosError(410, message, substatus)


def too_large(message: str = "Request size is too large.") -> CosmosError:
    """Return a 413."""
    return CosmosError(413, message)
