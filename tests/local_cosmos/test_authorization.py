"""Who gets in: signatures of this moment, and Entra ID tokens of the kind that Microsoft's emulators accept."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from email.utils import formatdate
from typing import Any, Self

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.cosmos.auth import _get_authorization_header
from azure.cosmos.exceptions import CosmosHttpResponseError

from core.local.cosmos import CosmosServer
from core.local.cosmos.errors import CosmosError
from core.local.cosmos.messages import Request
from core.local.cosmos.operations.auth import EMULATOR_KEY, Authenticator

OTHER_KEY = urlsafe_b64encode(b"x" * 64).decode()
ISSUED = 1_800_000_000.0


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def token_of(key: str = EMULATOR_KEY, **claims: Any) -> str:
    parts = (json.dumps({"typ": "JWT", "alg": "RS256"}).encode(), json.dumps(claims).encode(), key.encode())
    return ".".join(base64url(part) for part in parts)


def check(authorization: str, *, now: float, method: str = "GET", path: str = "dbs/d/colls/c/docs/a") -> int:
    """Return the status that a request is answered with before anything is looked up, 200 if it may pass."""
    headers = {"authorization": authorization, "x-ms-date": formatdate(ISSUED, usegmt=True)}
    try:
        Authenticator(EMULATOR_KEY, lambda: now).check(Request(method, path.split("/"), headers, b""))
    except CosmosError as error:
        return error.status
    return 200


class Signer:
    """What the SDK's signing function asks of a client."""

    master_key = EMULATOR_KEY
    resource_tokens = None


@pytest.mark.parametrize(("age", "status"), [(0, 200), (890, 200), (-890, 200), (910, 403), (-910, 403)])
def test_a_signature_holds_for_a_quarter_of_an_hour(age: int, status: int) -> None:
    headers = {"x-ms-date": formatdate(ISSUED, usegmt=True)}
    sign: Any = _get_authorization_header
    signed = sign(Signer(), "get", "", "dbs/d/colls/c/docs/a", True, "docs", headers)
    assert check(signed, now=ISSUED + age) == status


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (token_of(exp=ISSUED + 60), 200),
        (token_of(exp=ISSUED + 60, nbf=ISSUED), 200),
        (token_of(exp=ISSUED), 401),
        (token_of(exp=ISSUED + 60, nbf=ISSUED + 1), 401),
        (token_of(), 401),
        (token_of(exp="soon"), 401),
        (token_of(key=OTHER_KEY, exp=ISSUED + 60), 401),
        (token_of(key="", exp=ISSUED + 60), 401),
        (f"{base64url(b'{}')}.{base64url(b'[]')}.{base64url(EMULATOR_KEY.encode())}", 401),
        (f"a.!.{base64url(EMULATOR_KEY.encode())}", 401),
        ("a.b", 401),
        ("", 401),
        ("é.é.é", 401),
    ],
)
def test_a_token_without_the_account_key_or_out_of_its_time_is_refused(token: str, status: int) -> None:
    assert check(f"type=aad&ver=1.0&sig={token}", now=ISSUED) == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "dbs/d/colls/c/docs", 200),
        ("DELETE", "dbs/d/colls/c/docs/a", 200),
        ("GET", "dbs/d/colls/c", 200),
        ("GET", "dbs/d/colls/c/pkranges", 200),
        ("POST", "dbs/d/colls/c/operations/partitionkeydelete", 200),
        ("POST", "dbs", 403),
        ("POST", "dbs/d/colls", 403),
        ("PUT", "dbs/d/colls/c", 403),
        ("DELETE", "dbs/d", 403),
        ("PUT", "offers/abc", 403),
    ],
)
def test_a_token_serves_documents_and_not_the_making_of_containers(method: str, path: str, status: int) -> None:
    token = f"type=aad&ver=1.0&sig={token_of(exp=ISSUED + 60)}"
    assert check(token, now=ISSUED, method=method, path=path) == status


class Credential:
    """An async token credential as azure-identity has them."""

    def __init__(self, key: str) -> None:
        self.key = key

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        expires = int(time.time()) + 3600
        return AccessToken(token_of(self.key, exp=expires), expires)

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass


async def test_the_sdk_works_with_a_token_credential() -> None:
    async with CosmosServer("localhost", tls=True) as server:
        server.account.create_database({"id": "d"}, None, None)
        server.account.create_container("d", {"id": "c", "partitionKey": PartitionKey("/pk")}, None, None)
        async with CosmosClient(server.endpoint, Credential(server.key)) as client:
            container = client.get_database_client("d").get_container_client("c")
            await container.create_item({"id": "a", "pk": "p"})
            found: Any = container.query_items("SELECT VALUE c.id FROM c")
            assert [row async for row in found] == ["a"]
            with pytest.raises(CosmosHttpResponseError, match="cannot be authorized by AAD token") as caught:
                await client.create_database("another")
            assert (caught.value.status_code, int(caught.value.sub_status or 0)) == (403, 5300)
        stranger = CosmosClient(server.endpoint, Credential(OTHER_KEY))
        with pytest.raises(HttpResponseError) as refused:
            await stranger.__aenter__()
        await stranger.close()
        assert refused.value.status_code == 401
