"""Opens the one SQLAlchemy engine of a process, and says clearly why it cannot."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from core.errors import ConfigurationError
from core.postgres.entra import EntraPassword
from core.postgres.tls import cure_of, secured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from azure.core.credentials_async import AsyncTokenCredential
    from azure.identity.aio import DefaultAzureCredential
    from sqlalchemy import Connection

    from core.settings import Settings

# What the DSN does not say. A server that vanished without a word is given up after a minute, not after two hours; and
# of several hosts (or of one name that moves) the primary is wanted: a pool would keep what leads to a standby.
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,  # seconds, for each host
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "target_session_attrs": "read-write",
}


@asynccontextmanager
async def open_engine(settings: Settings, credential: AsyncTokenCredential | None = None) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on CROSSFEED_POSTGRES_DSN (any libpq URI, several hosts included); close its pool at the end.

    Works behind PgBouncer in transaction mode: no session state, and prepared statements only where nobody is between
    (core.postgres.prepared). Of several hosts the first
    that takes writes is used, for each new connection again, so a failover needs no restart. A server elsewhere is
    spoken to by TLS (core.postgres.tls).

    Args:
        settings: of the process.
        credential: who gives tokens with CROSSFEED_POSTGRES_AUTH=entra, instead of DefaultAzureCredential; stays open.

    Raises:
        ConfigurationError: the DSN is missing, malformed or less safe than it must be, or nobody answers there.

    """
    dsn = settings.require_postgres()
    try:
        said = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        msg = "CROSSFEED_POSTGRES_DSN is not a libpq connection string; see 'Connection URIs' in Postgres' manual"
        # The driver quotes the part that it could not read: a password, perhaps.
        raise ConfigurationError(msg) from None
    parameters: dict[str, Any] = {**_DEFAULTS, **secured(said, settings), "application_name": "crossfeed"}
    async with AsyncExitStack() as stack:
        tokens: EntraPassword | None = None
        if settings.postgres_auth == "entra" and credential is not None:
            tokens = EntraPassword(credential)
        elif settings.postgres_auth == "entra":
            tokens = EntraPassword(await stack.enter_async_context(_default_credential()))

        async def connect() -> psycopg.AsyncConnection[Any]:
            password = {} if tokens is None else {"password": await tokens.current()}
            try:
                return await psycopg.AsyncConnection.connect(**{**parameters, **password}, prepare_threshold=None)
            except psycopg.OperationalError as error:
                if tokens is not None:
                    tokens.refused(error)
                raise

        engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=connect,
            isolation_level="READ COMMITTED",  # whatever the server's default: the fence and the mirror count on it
            pool_size=settings.postgres_pool_size,
            max_overflow=0,
            hide_parameters=True,  # values are payload: they reach no log and no traceback
            pool_pre_ping=True,
        )
        stack.push_async_callback(engine.dispose)
        await _probe(engine, parameters)
        yield engine


def ending_silence(engine: AsyncEngine, seconds: float) -> AsyncEngine:
    """Return an engine on the same pool whose transactions Postgres ends when their process falls silent.

    A process that was stopped in the middle (SIGSTOP, a suspended host) would keep its locks: the next holder of its
    lease, a switch and everybody behind that would wait for it. Its transaction is as good as lost anyway.

    Args:
        engine: from open_engine.
        seconds: of silence between two statements of one transaction.

    """
    derived = engine.execution_options()

    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {max(1, round(seconds * 1000))}")

    event.listen(derived.sync_engine, "begin", limit)
    return derived


async def _probe(engine: AsyncEngine, parameters: dict[str, Any]) -> None:
    try:
        async with engine.connect() as connection:
            digits = (await connection.exec_driver_sql("SHOW extra_float_digits")).scalar_one()
    except (DBAPIError, psycopg.OperationalError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        where = f"{parameters.get('host', 'localhost')}:{parameters.get('port', '5432')}"
        lines = str(cause).strip().splitlines()
        why = next((line for line in lines if "failed:" in line), lines[-1]).strip()
        msg = f"cannot connect to Postgres at {where}, database {parameters.get('dbname', '')!r}: {why}{cure_of(why)}"
        raise ConfigurationError(msg) from error
    if int(digits) < 1:
        msg = (
            f"this database or role sets extra_float_digits to {digits}, so that Postgres would round numbers as it"
            " spells them; run: ALTER ROLE … RESET extra_float_digits (or ALTER DATABASE …)"
        )
        raise ConfigurationError(msg)


def _default_credential() -> DefaultAzureCredential:
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - costs 0.3 s, needed only with Entra

    return DefaultAzureCredential()


async def raw(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """Return the driver's connection, for hand-written SQL in the same transaction."""
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, psycopg.AsyncConnection):
        msg = f"expected a psycopg connection, not {type(driver).__name__}"
        raise TypeError(msg)
    return driver


async def fetch(connection: AsyncConnection, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Run a hot statement in the transaction of `connection` and return its rows, past SQLAlchemy's own rows.

    It is prepared where the connection prepares at all (core.postgres.prepared).

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres refused it, or did not answer.

    """
    driver = await raw(connection)
    try:
        async with driver.cursor(binary=True) as cursor:
            await cursor.execute(sql, parameters, prepare=True)
            return await cursor.fetchall() if cursor.description is not None else []
    except psycopg.Error as error:
        if driver.closed:
            await connection.invalidate()  # else the pool would try to roll it back
        raise DBAPIError(sql, None, error, hide_parameters=True) from error


async def run(connection: AsyncConnection, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements without parameters in one round trip, each with a snapshot of its own; return the last one's rows.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres refused one, or did not answer.

    """
    sql = "; ".join(statements)
    driver = await raw(connection)
    try:
        async with driver.cursor() as cursor:
            await cursor.execute(sql)
            while cursor.nextset():
                pass
            return await cursor.fetchall() if cursor.description is not None else []
    except psycopg.Error as error:
        if driver.closed:
            await connection.invalidate()
        raise DBAPIError(sql, None, error, hide_parameters=True) from error
