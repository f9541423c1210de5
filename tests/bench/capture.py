"""Measures what capture costs who writes: the same upsert into a captured table and into a bare one.

The tables are the example's accounts, with the same columns, rows and indexes; the bare one knows nothing of Crossfeed,
so what its columns cost counts as well. Each upsert is a transaction of its own; the server syncs its commits to disk.

A third table, `minimal`, shows where the floor is: the least that triggers can do and still be called capture. Row
triggers that set two columns, statement triggers that insert the message: nothing of keys that move, of tombstones, of
the mirror, of rights or of tracing. What remains between `minimal` and `captured` is what Crossfeed's promises cost.

The clients are psycopg's, in two processes on the machine of the server. The rounds alternate between the tables; then
again with a network in between; then with pgbench, a client that costs next to nothing and so makes the most of what
the server does.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg

import migrations
from core.domain.mappings import ACCOUNTS
from core.local.postgres import EmbeddedPostgres
from core.local.postgres_home import installed_programs
from core.phases import Phase
from core.postgres import capture
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.settings import Settings
from tests.bench.capture_client import ACCOUNT, upsert
from tests.bench.slow_network import slow_network
from tests.bench.wire import WrongAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENTS = 8
PROCESSES = 2
DURABLE = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "8GB"}
RTT_MS = 0.7
PINGS = 500
ROWS = 100_000
"""Keys of each table: enough that two clients seldom want the same row."""

_VALUES = [f"'{value}'" for value in ACCOUNT.values()]
_TPS = re.compile(r"tps = ([0-9.]+)")

TABLES = {"bare": "bare_accounts", "minimal": "minimal_accounts", "captured": str(ACCOUNTS.table)}

_MINIMAL = (
    """
    CREATE FUNCTION minimal_stamp_insert() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.crossfeed_epoch := 1;
        NEW.crossfeed_version := 1;
        RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION minimal_stamp_update() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.crossfeed_epoch := 1;
        NEW.crossfeed_version := OLD.crossfeed_version + 1;
        RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION minimal_captured() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
            SELECT 0, 'Minimal', n.id, n.id, n.crossfeed_epoch, n.crossfeed_version, false FROM new_rows n;
        RETURN NULL;
    END $$
    """,
    *(
        f"CREATE TRIGGER stamp_{event} BEFORE {event} ON {TABLES['minimal']} FOR EACH ROW"
        f" EXECUTE FUNCTION minimal_stamp_{event}()"
        for event in ("insert", "update")
    ),
    # An upsert fires both; there is no trigger of two events with a transition table.
    *(
        f"CREATE TRIGGER captured_{event} AFTER {event} ON {TABLES['minimal']} REFERENCING NEW TABLE AS new_rows"
        " FOR EACH STATEMENT EXECUTE FUNCTION minimal_captured()"
        for event in ("insert", "update")
    ),
)


async def measure(seconds: float, rounds: int) -> dict[str, float]:
    """Return transactions per second and what capture costs: on loopback, with a network in between, with pgbench.

    Costs are transactions a second of the bare table, divided by those of the captured one, and of the `minimal` one.
    """
    async with EmbeddedPostgres(settings=DURABLE) as server:
        dsn = await server.create_database("bench")
        await _prepare(dsn)
        near = await asyncio.to_thread(_rounds, _psycopg, dsn, seconds, rounds)
        with _far(dsn, RTT_MS) as far_dsn:
            excess = _round_trip_ms(far_dsn) - _round_trip_ms(dsn) - RTT_MS
        with _far(dsn, max(0.0, RTT_MS - excess)) as far_dsn:
            added = _round_trip_ms(far_dsn) - _round_trip_ms(dsn)
            far = await asyncio.to_thread(_rounds, _psycopg, far_dsn, seconds, rounds)
        raw = await asyncio.to_thread(_rounds, _pgbench, dsn, seconds, rounds)
        await _check(dsn)
    return {
        "clients": CLIENTS,
        **_figures(near),
        "rtt_ms": RTT_MS,
        "rtt_ms_measured": round(added, 2),
        **_figures(far, "_at_rtt"),
        **_figures(raw, "_of_pgbench"),
    }


def _figures(tps: dict[str, float], how: str = "") -> dict[str, float]:
    """Name transactions per second, and what capture and the least of it cost."""
    return {
        **{f"{name}_tps{how}": round(figure) for name, figure in tps.items()},
        f"cost{how}": round(tps["bare"] / tps["captured"], 3),
        f"minimal_cost{how}": round(tps["bare"] / tps["minimal"], 3),
    }


@contextmanager
def _far(dsn: str, rtt_ms: float) -> Iterator[str]:
    """Yield where the server is found behind a network; it takes longer than asked for: sleeping is not exact."""
    address = urlsplit(dsn)
    with slow_network(str(address.hostname), address.port or 0, rtt_ms) as port:
        yield address._replace(netloc=f"{address.netloc.rpartition(':')[0]}:{port}").geturl()


def _round_trip_ms(dsn: str) -> float:
    """Return the median round trip of one client that asks for nothing."""
    took = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(PINGS):
            since = time.perf_counter()
            connection.execute("SELECT 1", prepare=True)
            took.append(time.perf_counter() - since)
    return statistics.median(took) * 1000


async def _prepare(dsn: str) -> None:
    """Make the tables, alike but for the capture, and fill them."""
    async with open_engine(Settings.load(postgres_dsn=dsn)) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(migrations.upgrade)
            await connection.run_sync(ACCOUNTS.table.create)
            await connection.exec_driver_sql(f"CREATE TABLE {TABLES['bare']} (LIKE {ACCOUNTS.table} INCLUDING ALL)")
            await connection.run_sync(capture.install, ACCOUNTS)
            await connection.exec_driver_sql(f"CREATE TABLE {TABLES['minimal']} (LIKE {ACCOUNTS.table} INCLUDING ALL)")
            for statement in _MINIMAL:
                await connection.exec_driver_sql(statement)
        await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="bench", why="bench")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for table in TABLES.values():
            await connection.execute(
                f"INSERT INTO {table} (id, {', '.join(ACCOUNT)})"
                f" SELECT 'acc-' || n, {', '.join(_VALUES)} FROM generate_series(1, {ROWS}) n"
            )
        await connection.execute("VACUUM ANALYZE")


def _rounds(write: Callable[[str, str, float], float], dsn: str, seconds: float, rounds: int) -> dict[str, float]:
    """Return the median of the transactions per second of each table."""
    found: dict[str, list[float]] = {name: [] for name in TABLES}
    for number in range(rounds):
        for name in TABLES if number % 2 else reversed(TABLES):
            found[name].append(write(dsn, TABLES[name], seconds / rounds))
        figures = ", ".join(f"{name} {tps[-1]:,.0f}" for name, tps in found.items())
        print(f"{write.__name__[1:]}, round {number + 1} of {rounds}: transactions/s {figures}", file=sys.stderr)
    return {name: statistics.median(tps) for name, tps in found.items()}


def _psycopg(dsn: str, table: str, seconds: float) -> float:
    arguments = [dsn, table, str(ROWS), str(CLIENTS // PROCESSES), str(seconds)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.capture_client", *arguments], stdout=subprocess.PIPE, text=True
        )
        for _ in range(PROCESSES)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        msg = f"a client of table {table} failed"
        raise WrongAnswerError(msg)
    return sum(map(float, said))


def _pgbench(dsn: str, table: str, seconds: float) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        write = upsert(table, "'acc-' || :key", _VALUES)
        script.write(f"\\set key random(1, {ROWS})\n{write};\n")
        script.flush()
        done = subprocess.run(
            [
                installed_programs() / "pgbench",
                *("--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", "--jobs=2"),
                *(f"--time={max(1, round(seconds))}", "--file", script.name, dsn),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    tps = _TPS.search(done.stdout)
    if done.returncode or tps is None:
        raise WrongAnswerError(done.stderr.strip())
    return float(tps[1])


async def _check(dsn: str) -> None:
    """Every write of both captured tables has its message; without that the figures are of something else."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for name, table in ((ACCOUNTS.name, TABLES["captured"]), ("Minimal", TABLES["minimal"])):
            cursor = await connection.execute(
                f"SELECT (SELECT sum(crossfeed_version) FROM {table}),"
                f" (SELECT count(*) FROM crossfeed.outbox WHERE entity = '{name}')"
            )
            row = await cursor.fetchone()
            if row is None or row[0] != row[1]:
                msg = f"writes and messages of {table}: {row}"
                raise WrongAnswerError(msg)
