"""Accepts Microsoft Entra ID tokens as Microsoft's emulators do, so that clients with a token credential can be tested.

No tenant is asked: the third part of such a token is the account key itself, so that nobody gets in without it.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from core.local.cosmos.errors import CosmosError

if TYPE_CHECKING:
    from core.local.cosmos.messages import Request

_PARTS = 3
_MANAGED = frozenset({"dbs", "colls", "offers"})


class EntraTokens:
    """Verifies tokens against one base64 account key."""

    def __init__(self, key: str) -> None:
        self._proof = urlsafe_b64encode(key.encode()).rstrip(b"=")

    def check(self, header: str, request: Request, kind: str, now: float) -> None:
        """Let a request for a resource of `kind` pass at `now` (seconds since the epoch).

        Raises:
            CosmosError: 401 for a token that is not valid now, 403/5300 for what takes the account key.
        """
        parts = unquote(header).partition("&sig=")[2].split(".")
        if len(parts) != _PARTS or not hmac.compare_digest(parts[2].rstrip("=").encode(), self._proof):
            raise CosmosError(401, "The Entra ID token does not hold the account key in the place of its signature.")
        claims = _claims(parts[1])
        if not claims.get("nbf", now) <= now < claims["exp"]:
            raise CosmosError(401, "The Entra ID token is not valid at the current time.")
        query = request.is_query
        if kind in _MANAGED and request.method != "GET" and "operations" not in request.segments and not query:
            message = f"The given request [{request.method} /{'/'.join(request.segments)}] "
            raise CosmosError(403, f"{message}cannot be authorized by AAD token in data plane.", 5300)


def _claims(part: str) -> dict[str, Any]:
    try:
        claims = orjson.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError as error:
        raise CosmosError(401, "The claims of the Entra ID token are not base64 JSON.") from error
    times = [claims.get("nbf", 0), claims.get("exp")] if isinstance(claims, dict) else [None]
    if not all(isinstance(time, int | float) for time in times):
        raise CosmosError(401, "The Entra ID token does not say when it expires.")
    return dict(claims)
