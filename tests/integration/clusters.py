"""Real clusters for the tests of restores and failovers: one that is primary, base backups of it, and standbys."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg

from core.local.postgres import EmbeddedPostgres
from core.local.postgres_home import installed_programs, prepare_home, reachable_programs, run_as, server_account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

FAST = {"fsync": "off", "full_page_writes": "off"}


class Backup(EmbeddedPostgres):
    """A cluster made of a base backup; `home` is its directory."""

    def __init__(self, home: Path, port: int) -> None:
        super().__init__(home, settings=FAST, port=port)
        self.home = home


@asynccontextmanager
async def backup_of(primary: EmbeddedPostgres, *, follows: bool = False, port: int = 0) -> AsyncIterator[Backup]:
    """A base backup taken now, to be opened later; as a standby that follows the primary if `follows`."""
    with tempfile.TemporaryDirectory(prefix="crossfeed-cluster-", ignore_cleanup_errors=True) as place:
        home = Path(place) / "home"
        await asyncio.to_thread(_back_up, primary.dsn, home, ["-R"] if follows else [])
        yield Backup(home, port)


def forget_the_primary(standby: Backup) -> None:
    """Let a closed standby follow nobody, so that it stays where it is until it is promoted."""
    with (standby.home / "data" / "postgresql.auto.conf").open("a") as file:
        file.write("primary_conninfo = ''\n")


async def dump_into(dsn: str, cluster: EmbeddedPostgres, name: str, meanwhile: Sequence[str] = ()) -> str:
    """Dump a database, and restore it as `name` in another cluster; return its URI. Statements run in between."""
    target = await cluster.create_database(name)
    with tempfile.TemporaryDirectory(prefix="crossfeed-dump-") as place:
        file = Path(place) / "dump"
        await asyncio.to_thread(_run, ["pg_dump", "-Fc", "-f", file, dsn])
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            for statement in meanwhile:
                await connection.execute(statement.encode())
        await asyncio.to_thread(_run, ["pg_restore", "--exit-on-error", "-d", target, file])
    return target


async def promote(standby: EmbeddedPostgres) -> None:
    async with await psycopg.AsyncConnection.connect(standby.dsn, autocommit=True) as connection:
        await connection.execute("SELECT pg_promote()")


async def until_replayed(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    async with (
        await psycopg.AsyncConnection.connect(primary.dsn, autocommit=True) as here,
        await psycopg.AsyncConnection.connect(standby.dsn, autocommit=True) as there,
    ):
        [position] = await (await here.execute("SELECT pg_current_wal_lsn()::text")).fetchone() or [None]
        async with asyncio.timeout(20):
            while True:
                found = await there.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position])
                if (await found.fetchone()) == (True,):
                    return
                await asyncio.sleep(0.02)


def _back_up(dsn: str, home: Path, options: Sequence[str]) -> None:
    account = server_account()
    home.parent.chmod(0o755)  # the server's user has to pass
    prepare_home(home, account)
    programs = reachable_programs(installed_programs(), home, account)
    command: list[str | Path] = [
        programs / "pg_basebackup",
        "-D",
        home / "data",
        "-d",
        dsn,
        "-c",
        "fast",
        "--no-sync",
        *options,
    ]
    subprocess.run(command, check=True, cwd="/", **run_as(account))
    password = home / "password"
    password.touch(mode=0o600)
    password.write_text(str(urlsplit(dsn).password))
    if account is not None:
        os.chown(password, account.pw_uid, account.pw_gid)


def _run(command: Sequence[str | Path]) -> None:
    program, *arguments = command
    subprocess.run([installed_programs() / program, *arguments], check=True, cwd="/")
