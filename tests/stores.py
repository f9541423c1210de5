"""Where the tests' stores come from: embedded (the default), containers, or servers that are there already.

    CROSSFEED_TEST_STORES=embedded   nothing installed; what `make test` runs
    CROSSFEED_TEST_STORES=docker     Postgres and Microsoft's vNext Cosmos emulator through testcontainers
    CROSSFEED_TEST_STORES=given      what CROSSFEED_POSTGRES_DSN (of a role that may create databases),
                                     CROSSFEED_COSMOS_ENDPOINT and CROSSFEED_COSMOS_KEY say

The containers' part needs a Docker engine; it was written by the images' documentation and not run so far.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

import migrations
from core.domain.mappings import MAPPINGS
from core.domain.tables import metadata
from core.local.cosmos import EMULATOR_KEY
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.postgres import capture
from core.postgres.engine import open_engine
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOM = 4 * 1024**3  # bytes
_STRATEGIES = 15_00_00  # the first version that lets one choose how a database is copied
POSTGRES_IMAGE = "postgres:18"
COSMOS_IMAGE = "mcr.microsoft.com/cosmosdb/linux/azure-cosmos-emulator:vnext-preview"


class PostgresServer(Protocol):
    """A Postgres server on which tests make databases of their own."""

    @property
    def dsn(self) -> str:
        """URI of a database that is always there."""
        ...

    async def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given; return its URI."""
        ...

    async def drop_database(self, name: str) -> None:
        """Drop a database together with the sessions that still use it."""
        ...


@dataclass(frozen=True)
class CosmosServer:
    """A Cosmos DB account on which tests make databases of their own."""

    endpoint: str
    key: str


@dataclass(frozen=True)
class GivenPostgres:
    """A server that somebody else started."""

    dsn: str

    async def create_database(self, name: str, template: str | None = None) -> str:
        """See PostgresServer."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        await self._execute(statement)
        return urlsplit(self.dsn)._replace(path=f"/{quote(name, safe='')}").geturl()

    async def drop_database(self, name: str) -> None:
        """See PostgresServer."""
        await self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    async def _execute(self, statement: sql.Composed) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await connection.execute(statement)


@dataclass(frozen=True)
class Copies:
    """Makes and drops copies of a template over one connection that stays open: for what nearly every test does."""

    connection: psycopg.AsyncConnection
    template: str

    async def create(self, name: str) -> None:
        """Copy the template as files, which takes two thirds of the time that copying it through the log takes."""
        await self.connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(self.template)
            )
            if self.connection.info.server_version >= _STRATEGIES
            else sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(self.template))
        )

    async def drop(self, name: str) -> None:
        """Drop a copy, with the sessions that still use it; those that are just ending are given their moment."""
        for _ in range(20):  # the server itself would look again after 100 ms
            cursor = await self.connection.execute("SELECT FROM pg_stat_activity WHERE datname = %s", (name,))
            if not cursor.rowcount:
                break
            await asyncio.sleep(0.001)
        await self.connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Yield the Postgres server of this run."""
    match _source():
        case "docker":
            from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - needs Docker

            with PostgresContainer(POSTGRES_IMAGE, driver=None).with_command(
                "-c max_connections=200 -c max_prepared_transactions=8 -c fsync=off"
            ) as container:
                yield GivenPostgres(container.get_connection_url())
        case "given":
            yield GivenPostgres(os.environ["CROSSFEED_POSTGRES_DSN"])
        case _:
            with EmbeddedPostgres(within=memory()) as server:
                yield server


@contextmanager
def cosmos() -> Iterator[CosmosServer]:
    """Yield the Cosmos DB account of this run."""
    match _source():
        case "docker":
            from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - needs Docker
            from testcontainers.core.wait_strategies import HttpWaitStrategy  # noqa: PLC0415 - needs Docker

            emulator = DockerContainer(COSMOS_IMAGE).with_command("--protocol http").with_exposed_ports(8081, 8080)
            with emulator.waiting_for(HttpWaitStrategy(8080, "/ready")) as container:
                address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8081)}/"
                yield CosmosServer(address, EMULATOR_KEY)
        case "given":
            yield CosmosServer(os.environ["CROSSFEED_COSMOS_ENDPOINT"], os.environ["CROSSFEED_COSMOS_KEY"])
        case _:
            with _embedded_cosmos() as server:
                yield server


def memory() -> Path | None:
    """Return a place in memory if there is a roomy one: a copy of the template takes a tenth of its time there."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM else None


@contextmanager
def _embedded_cosmos() -> Iterator[CosmosServer]:
    """Run the embedded server in a process of its own: the tests' loop is busy enough."""
    process = subprocess.Popen(
        [sys.executable, "-m", "core.local.cosmos", "--until-eof"],  # it ends with this process, however that ends
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        yield CosmosServer(said["endpoint"], said["key"])
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


async def install(dsn: str) -> None:
    """Install the schema, the example domain's tables and capture in an empty database."""
    async with open_engine(Settings.load(postgres_dsn=dsn)) as engine, engine.begin() as connection:
        await connection.run_sync(migrations.upgrade)
        await connection.run_sync(metadata.create_all)
        for mapping in Mappings(MAPPINGS):
            await connection.run_sync(capture.install, mapping)


def free_port() -> int:
    """Return a TCP port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _source() -> str:
    source = os.environ.get("CROSSFEED_TEST_STORES", "embedded")
    if source not in {"embedded", "docker", "given"}:
        msg = f"CROSSFEED_TEST_STORES={source!r} is neither embedded nor docker nor given"
        raise ValueError(msg)
    return source
