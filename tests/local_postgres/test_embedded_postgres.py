"""The embedded Postgres server: what it offers, and that nothing of it is left behind however its process ends."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from core.local.postgres import EmbeddedPostgres
from core.local.postgres_home import EmbeddedPostgresError, LocalExtraMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARENT = """
import asyncio, sys
from core.local.postgres import EmbeddedPostgres
async def main():
    async with EmbeddedPostgres() as pg:
        print(pg._port, pg._home, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def kept_directory() -> Iterator[Path]:
    # Not tmp_path: pytest makes that private to root, whose server runs as another user.
    directory = Path(tempfile.mkdtemp(prefix="crossfeed-test-"))
    directory.chmod(0o755)
    yield directory / "store"
    shutil.rmtree(directory)


def _value(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def _gone(port: int) -> bool:
    # Not by process id: a dead server whose parent died as well may stay visible as a zombie.
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


async def test_a_throw_away_server_serves_several_databases_and_leaves_no_trace() -> None:
    async with EmbeddedPostgres() as pg:
        home, port = pg._home, pg._port
        template = await pg.create_database("template")
        with psycopg.connect(template) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        copy = await pg.create_database("Copy of it", template="template")
        assert _value(copy, "SELECT n FROM t") == 7
        assert _value(copy, "SHOW fsync") == "off"
        assert _value(copy, "SELECT lower('ÄÖÜ')") == "äöü"
        await pg.drop_database("template")
        await pg.drop_database("template")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            _value(template, "SELECT 1")
        engine = create_engine(pg.dsn.replace("postgresql:", "postgresql+psycopg:", 1))
        with engine.connect() as session:
            assert session.scalar(text("SHOW max_prepared_transactions")) == "8"
        engine.dispose()
        # Our own port is no back door for the other users of the machine.
        with pytest.raises(psycopg.OperationalError, match="password"):
            _value(pg.dsn.replace(pg._password, "guessed"), "SELECT 1")
    assert _gone(port)
    assert not home.exists()
    with pytest.raises(EmbeddedPostgresError, match="not running"):
        _ = pg.dsn


def test_a_kept_directory_keeps_its_data_and_belongs_to_one_server(kept_directory: Path) -> None:
    with EmbeddedPostgres(kept_directory, settings={"wal_level": "logical"}) as pg:
        with psycopg.connect(pg.dsn) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        assert _value(pg.dsn, "SHOW wal_level") == "logical"
        assert _value(pg.dsn, "SHOW fsync") == "on"
        with pytest.raises(EmbeddedPostgresError, match=r"postmaster\.pid"), EmbeddedPostgres(kept_directory):
            pass
        first = pg.dsn
    with EmbeddedPostgres(kept_directory) as pg:
        assert _value(pg.dsn, "SELECT n FROM t") == 7
        assert pg.dsn.split("@")[0] == first.split("@")[0], "the password is kept with the data"


def test_the_server_ends_with_its_process_however_that_ends() -> None:
    parents = {
        how: subprocess.Popen(
            [sys.executable, "-c", _PARENT],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    }
    left = {}
    for how, parent in parents.items():
        with parent:
            assert parent.stdout is not None
            port, home = parent.stdout.readline().split()
            left[how] = (int(port), Path(home))
            parent.send_signal(how)
            parent.wait(20)
    deadline = time.monotonic() + 15
    while left := {how: (port, home) for how, (port, home) in left.items() if not _gone(port) or home.exists()}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_a_kept_directory_can_be_opened_again_right_after_its_process_was_killed(kept_directory: Path) -> None:
    code = _PARENT.replace("EmbeddedPostgres()", f"EmbeddedPostgres({str(kept_directory)!r})")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        parent.kill()
        parent.wait(20)
    with EmbeddedPostgres(kept_directory) as pg:
        assert _value(pg.dsn, "SELECT 1") == 1


async def test_a_start_that_is_cancelled_leaves_no_server() -> None:
    pg = EmbeddedPostgres()
    starting = asyncio.ensure_future(pg.__aenter__())
    await asyncio.sleep(0.1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert pg._server is None
    assert not pg._home.exists()


def test_a_port_in_use_is_named() -> None:
    with EmbeddedPostgres() as pg:
        with pytest.raises(EmbeddedPostgresError, match="Address already in use"), EmbeddedPostgres(port=pg._port):
            pass
        with pytest.raises(EmbeddedPostgresError, match="open already"), pg:
            pass
        assert _value(pg.dsn, "SELECT 1") == 1


def test_without_the_extra_its_name_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> Any:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    with pytest.raises(LocalExtraMissingError, match=r"crossfeed\[local\]"), EmbeddedPostgres():
        pass
