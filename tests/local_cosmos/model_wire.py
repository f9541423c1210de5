"""Speaks the wire protocol to the server, over a connection or by a mere call, for tests that look at every answer."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from dataclasses import dataclass
from email.utils import formatdate
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import orjson
from yarl import URL

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.messages import Request, error_response
from core.local.cosmos.operations.routes import Router

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

    from core.local.cosmos.state.account import Account


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, the headers by lower-case name and the body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def substatus(self) -> int:
        return int(self.headers.get("x-ms-substatus", "0"))

    @property
    def lsn(self) -> int:
        return int(self.headers["lsn"])


class Wire(Protocol):
    """Sends one request, of unquoted path segments, and returns its answer."""

    async def send(self, method: str, path: list[str], headers: dict[str, str], body: bytes = b"") -> Answer: ...


class Anyone:
    """Lets every request pass."""

    def check(self, request: Request) -> None:
        pass


class CallWire:
    """Calls the router in process: a hundred times quicker than a connection."""

    def __init__(self, account: Account) -> None:
        self._router = Router(account, Anyone(), lambda _: "http://127.0.0.1/")  # type: ignore[arg-type]

    async def send(self, method: str, path: list[str], headers: dict[str, str], body: bytes = b"") -> Answer:
        try:
            response = self._router.handle(Request(method, path, headers, body))
        except CosmosError as error:
            response = error_response(error)
        return Answer(response.status, response.headers, response.body)


class HttpWire:
    """Sends signed requests, each exactly once."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, key: str) -> None:
        self._session = session
        self._endpoint = endpoint.rstrip("/")
        self._key = key

    async def send(self, method: str, path: list[str], headers: dict[str, str], body: bytes = b"") -> Answer:
        url = URL(f"{self._endpoint}/{'/'.join(quote(part, safe='') for part in path)}", encoded=True)
        async with self._session.request(
            method, url, headers={**headers, **signature(self._key, method, path)}, data=BytesIO(body) if body else None
        ) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, found, await response.read())


def signature(key: str, method: str, path: list[str]) -> dict[str, str]:
    """Return the headers that sign a request, as the protocol's documentation says."""
    date = formatdate(usegmt=True)
    if path[-2:] == ["operations", "partitionkeydelete"]:
        kind, link = "colls", "/".join(path[:-2])
    elif len(path) % 2:
        kind, link = path[-1], "/".join(path[:-1])
    else:
        kind, link = (path[-2], "/".join(path)) if path else ("", "")
    text = f"{method.lower()}\n{kind}\n{link}\n{date.lower()}\n\n"
    digest = b64encode(hmac.digest(b64decode(key), text.encode(), "sha256")).decode()
    return {"x-ms-date": date, "authorization": quote(f"type=master&ver=1.0&sig={digest}", safe="-_.!~*'()")}
