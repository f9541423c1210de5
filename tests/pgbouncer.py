"""Runs a real PgBouncer before a Postgres server: the installed one, or Debian's package where that can be fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import psycopg

from core.local.postgres_home import run_as, server_account
from tests.stores import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES = Path.home() / ".cache" / "crossfeed" / "packages"
_FETCH_S = 60
_START_S = 10


class PgBouncerMissingError(Exception):
    """There is no PgBouncer on this machine, and it cannot be fetched."""


@contextmanager
def pgbouncer(dsn: str, *, pool_size: int) -> Iterator[str]:
    """Yield the DSN of a PgBouncer in transaction mode before the server at `dsn`.

    Raises:
        PgBouncerMissingError: there is none to be had; the message says why.

    """
    directory = Path(tempfile.mkdtemp(prefix="crossfeed-pgbouncer-"))
    directory.chmod(0o755)  # it runs as another user when this one is root
    try:
        program, libraries = _installed() or _fetched(directory)
        server, port = urlsplit(dsn), free_port()
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            "[databases]\n"
            f"* = host={server.hostname} port={server.port} user={server.username}"
            f" password={unquote(server.password or '')}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 200\n"
        )
        with (
            (directory / "log").open("wb") as log,
            subprocess.Popen(
                [program, configuration],
                env={"LD_LIBRARY_PATH": libraries},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **run_as(server_account()),
            ) as process,
        ):
            try:
                through = server._replace(netloc=f"{server.username}@127.0.0.1:{port}").geturl()
                _wait(process, through, directory / "log")
                yield through
            finally:
                process.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _installed() -> tuple[str, str] | None:
    found = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin:/opt/homebrew/opt/bin")
    return None if found is None else (found, "")


def _fetched(directory: Path) -> tuple[str, str]:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        msg = "pgbouncer is not installed, and this is no Debian whose package could be fetched"
        raise PgBouncerMissingError(msg)
    root = directory / "root"
    depends = _run(["dpkg-deb", "-f", _unpacked("pgbouncer", root), "Depends"])
    for package in re.findall(r"(?:^|, )(lib[^\s,]+)", depends):
        if subprocess.run(["dpkg-query", "-W", package], capture_output=True, check=False).returncode != 0:
            _unpacked(package, root)
    return str(root / "usr/sbin/pgbouncer"), ":".join(map(str, root.glob("usr/lib/*-linux-*")))


def _unpacked(package: str, root: Path) -> str:
    """Unpack a package, fetched once and kept for later runs; return its file."""
    _PACKAGES.mkdir(parents=True, exist_ok=True)
    if not list(_PACKAGES.glob(f"{package}_*.deb")):
        _run(["apt-get", "download", package])
    file = str(next(_PACKAGES.glob(f"{package}_*.deb")))
    _run(["dpkg-deb", "-x", file, str(root)])
    return file


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=_PACKAGES, capture_output=True, text=True, check=True, timeout=_FETCH_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        msg = f"pgbouncer is not installed, and Debian's package cannot be fetched: {error}"
        raise PgBouncerMissingError(msg) from error
    return done.stdout


def _wait(process: subprocess.Popen[bytes], dsn: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                msg = f"pgbouncer does not run: {log.read_text(errors='replace')[-1000:]}"
                raise PgBouncerMissingError(msg) from None
            time.sleep(0.05)
        else:
            return
