"""Microsoft Entra ID tokens: asked for rarely, replaced before they end, and never missed by what is connected."""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import orjson
import psycopg
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from core.cosmos.client import open_cosmos
from core.errors import ConfigurationError
from core.local.cosmos import CosmosServer
from core.postgres.engine import open_engine
from core.postgres.entra import SPARE_S, EntraPassword

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings


@dataclass
class Tenant:
    """A credential as azure-identity has them: counts what it is asked for, and gives tokens of `life_s` seconds."""

    life_s: float = 3600.0
    is_away: bool = False
    asked: list[str] = field(default_factory=list)
    token: str = "first"

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.asked.extend(scopes)
        await asyncio.sleep(0)
        if self.is_away:
            raise ClientAuthenticationError(message="the tenant's words, which may hold anything: hunter2")
        return AccessToken(self.token, int(time.time() + self.life_s))

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


@pytest.fixture
async def role(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A role whose password is the token that Postgres takes now; `accept` changes it."""
    connection = await psycopg.AsyncConnection.connect(settings.require_postgres(), autocommit=True)
    async with connection:
        await connection.execute("CREATE ROLE entra_app LOGIN")
        await accept(connection, "first")
        yield connection
        await connection.execute("DROP ROLE entra_app")


async def accept(connection: psycopg.AsyncConnection[Any], token: str) -> None:
    await connection.execute(sql.SQL("ALTER ROLE entra_app PASSWORD {}").format(sql.Literal(token)))


@pytest.fixture
def by_token(settings: Settings) -> Settings:
    parts = urlsplit(settings.require_postgres())
    dsn = parts._replace(netloc=f"entra_app@{parts.hostname}:{parts.port}").geturl()
    changed = {"postgres_dsn": SecretStr(dsn), "postgres_auth": "entra", "postgres_pool_size": 4}
    return settings.model_copy(update=changed)


async def pid(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one())


async def pids(engine: AsyncEngine, count: int) -> set[int]:
    """Return the backends of connections that are open at once."""
    together = asyncio.Barrier(count)

    async def one() -> int:
        async with engine.connect() as connection:
            found = int((await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one())
            await together.wait()
            return found

    return set(await asyncio.gather(*(one() for _ in range(count))))


async def test_connections_outlive_their_token_and_new_ones_get_a_new_one(
    by_token: Settings, role: psycopg.AsyncConnection[Any]
) -> None:
    tenant = Tenant(life_s=SPARE_S - 1)
    async with open_engine(by_token, tenant) as engine:
        old = await pid(engine)
        tenant.token = "second"
        await accept(role, "second")
        assert await pid(engine) == old, "what is connected needs no token"
        found = await pids(engine, 4)
    assert old in found
    assert len(found) == 4
    assert tenant.asked == ["https://ossrdbms-aad.database.windows.net/.default"] * 4


async def test_a_pool_that_fills_at_once_asks_once(by_token: Settings, role: psycopg.AsyncConnection[Any]) -> None:
    tenant = Tenant()
    async with open_engine(by_token, tenant) as engine:
        assert len(await pids(engine, 4)) == 4
    assert len(tenant.asked) == 1


async def test_a_token_that_is_refused_is_asked_for_anew(
    by_token: Settings, role: psycopg.AsyncConnection[Any]
) -> None:
    tenant = Tenant()
    async with open_engine(by_token, tenant) as engine:
        await accept(role, "second")
        tenant.token = "second"
        await engine.dispose()
        with pytest.raises(OperationalError, match="authentication failed"):
            await pid(engine)
        assert await pid(engine)
    assert len(tenant.asked) == 2


async def test_a_tenant_that_is_away_is_no_harm_while_the_token_lives(
    by_token: Settings, role: psycopg.AsyncConnection[Any]
) -> None:
    tenant = Tenant(life_s=SPARE_S / 2)
    async with open_engine(by_token, tenant) as engine:
        tenant.is_away = True
        await engine.dispose()
        assert await pid(engine)


async def test_without_a_token_the_start_says_so_and_not_what_the_tenant_said(by_token: Settings) -> None:
    with pytest.raises(ConfigurationError, match="no Microsoft Entra ID token for Postgres") as refused:
        async with open_engine(by_token, Tenant(is_away=True)):
            pass
    assert "hunter2" not in str(refused.value)


async def test_a_token_that_has_ended_is_not_used_again() -> None:
    now = time.time()
    tenant = Tenant(life_s=3600)
    password = EntraPassword(tenant, lambda: now)
    assert await password.current() == "first"
    tenant.is_away = True
    now += 3601
    with pytest.raises(psycopg.OperationalError, match="no Microsoft Entra ID token"):
        await password.current()
    tenant.is_away, tenant.token = False, "second"
    assert await password.current() == "second"


async def test_a_client_of_cosmos_db_outlives_its_tokens(settings: Settings) -> None:
    class CosmosTenant(Tenant):
        """Tokens that the embedded server accepts for a moment."""

        async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            self.asked.extend(scopes)
            ends = time.time() + self.life_s
            claims = urlsafe_b64encode(orjson.dumps({"exp": ends})).decode().rstrip("=")
            proof = urlsafe_b64encode(server.key.encode()).decode().rstrip("=")
            return AccessToken(f"e30.{claims}.{proof}", int(ends))

    async with CosmosServer("localhost", tls=True) as server:
        here = settings.model_copy(update={"cosmos_endpoint": server.endpoint})
        async with open_cosmos(here) as owner:
            await owner.provision(settings.load_mappings())
        tenant = CosmosTenant(life_s=0.7)
        async with open_cosmos(here.model_copy(update={"cosmos_key": None}), tenant) as store:
            await store.check(settings.load_mappings())
            asked = len(tenant.asked)
            await asyncio.sleep(0.8)
            await store.check(settings.load_mappings())
    assert len(tenant.asked) > asked
