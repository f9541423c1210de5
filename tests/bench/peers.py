"""Measures Crossfeed against other outboxes: same Postgres, same rounds, each in an environment of its own.

Crossfeed has its default settings throughout. A peer handles messages twice in each round, and there are two ratios:

    drain_ratio              the peer with the quickest options of those tried here (`quickest` in tests.bench.peer_*):
                             as many workers or tasks as there are clients, many rows fetched and deleted at once
    drain_ratio_at_defaults  the peer with its documented defaults, no option given: faststream-outbox has one worker
                             that fetches 10 rows and deletes each by itself, pgqueuer takes 10 jobs at once,
                             procrastinate runs one task at a time and keeps what is done

Peers publish in the transaction of the row, as their documentation says; there are no options for that.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from core.domain.mappings import MAPPINGS
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.postgres.engine import open_engine
from core.settings import Settings
from outbox.relay import Relay
from tests.bench.drain import FILL, NullSink
from tests.bench.inserting import CLIENTS, transactions_per_s
from tests.bench.wire import WrongAnswerError
from tests.integration.relay_steps import make_primary
from tests.stores import install, memory

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

BARE: Final = "CREATE TABLE bare (LIKE accounts INCLUDING DEFAULTS INCLUDING INDEXES)"
ROOT: Final = Path(__file__).parents[2]
MESSAGES: Final = 50_000


@dataclass(frozen=True)
class Package:
    """A peer. `messages` are as many as it handles in about a second: many of its batches, few of ours.

    `messages_at_defaults` are as many when it has no options.
    """

    name: str
    module: str
    requirements: tuple[str, ...]
    messages: int
    messages_at_defaults: int


FIRST: Final = Package(
    "faststream-outbox", "peer_faststream", ("faststream-outbox[asyncpg]", "psycopg[binary]"), 10_000, 1_000
)
OTHERS: Final = (
    Package("pgqueuer", "peer_pgqueuer", ("pgqueuer[asyncpg]", "sqlalchemy[asyncio]"), 10_000, 2_000),
    Package(
        "procrastinate",
        "peer_procrastinate",
        ("procrastinate", "psycopg[binary,pool]", "sqlalchemy[asyncio]"),
        1_000,
        500,
    ),
)


class NotInstalledError(Exception):
    """A peer cannot be installed here."""


class Peer:
    """The process of another one."""

    def __init__(self, package: Package, process: Process) -> None:
        self.package = package
        self._process = process

    async def ask(self, what: str, number: float) -> float:
        """Have it measure something.

        Raises:
            WrongAnswerError: it ended.

        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {number}\n".encode())
        line = await self._process.stdout.readline()
        if not line:
            msg = f"{self.package.name} ended"
            raise WrongAnswerError(msg)
        return float(line)


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return how many times faster our relay drains, and what an insert with its message costs, ours and the peers'.

    Ratios are messages a second of our relay, divided by the peer's: at its quickest, and with its default options.
    Costs are transactions a second of the bare insert, divided by those of the insert with its message. The figures of
    other peers than the first follow under their names; of one that cannot be installed, why.

    Raises:
        WrongAnswerError: the first peer could not be installed, or one ended.

    """
    figures: dict[str, list[float]] = {}
    answer: dict[str, float | int | str] = {"peer": FIRST.name}

    def note(name: str, figure: float) -> None:
        figures.setdefault(name, []).append(figure)

    async with EmbeddedPostgres(within=memory()) as postgres, AsyncExitStack() as stack:
        settings = Settings.load(postgres_dsn=await postgres.create_database("bench"))
        await install(settings.require_postgres())
        peers: list[Peer] = []
        for package in (FIRST, *OTHERS):
            try:
                peers.append(await stack.enter_async_context(_peer(package, settings.require_postgres())))
            except NotInstalledError as error:
                if package is FIRST:
                    raise WrongAnswerError(str(error)) from error
                answer[package.name] = str(error)
        each = seconds / rounds / (2 + 2 * len(peers))
        engine = await stack.enter_async_context(open_engine(settings))
        await make_primary(engine)
        async with engine.begin() as connection:
            await connection.exec_driver_sql(BARE)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            bare = await transactions_per_s(engine, "bare", each)
            note("insert_cost", bare / await transactions_per_s(engine, "accounts", each))
            ours = await _drain(engine, settings)
            note("messages_per_s", ours)
            for peer in peers:
                name = "peer" if peer.package is FIRST else peer.package.name
                ratio = "drain_ratio" if peer.package is FIRST else f"{name}_drain_ratio"
                bare = await peer.ask("bare", each)
                note(f"{name}_insert_cost", bare / await peer.ask("published", each))
                theirs = await peer.ask("drain", peer.package.messages)
                note(f"{name}_messages_per_s", theirs)
                note(ratio, ours / theirs)
                theirs = await peer.ask("defaults", peer.package.messages_at_defaults)
                note(f"{name}_messages_per_s_at_defaults", theirs)
                note(f"{ratio}_at_defaults", ours / theirs)
    for name, of_rounds in figures.items():
        figure = median(of_rounds)
        answer[name] = round(figure) if "_per_s" in name else round(figure, 1 if "ratio" in name else 3)
    return answer | {"clients": CLIENTS}


async def _drain(engine: AsyncEngine, settings: Settings) -> float:
    """Return messages a second of distinct documents, through the whole relay but for Cosmos DB."""
    relay = Relay(settings, Mappings(MAPPINGS), engine, NullSink())
    await relay.drain()
    async with engine.begin() as connection:
        last = (await connection.exec_driver_sql("SELECT max(seq) FROM crossfeed.outbox")).scalar_one()
        await connection.exec_driver_sql(FILL, {"first": last + 1, "last": last + MESSAGES})
    loop = asyncio.get_running_loop()
    began = loop.time()
    messages = await relay.drain()
    took = loop.time() - began
    if messages != MESSAGES:
        msg = f"{messages} messages were relayed, not {MESSAGES}"
        raise WrongAnswerError(msg)
    return messages / took


@asynccontextmanager
async def _peer(package: Package, dsn: str) -> AsyncIterator[Peer]:
    with tempfile.TemporaryDirectory(prefix="crossfeed-peer-") as directory:
        python = str(Path(directory) / "bin" / "python")
        await _run(package, sys.executable, "-m", "venv", "--without-pip", directory)
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
        await _run(package, *pip, *package.requirements, "uvloop")
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", f"tests.bench.{package.module}"),
            cwd=ROOT,
            env={**os.environ, "PEER_DSN": dsn},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield Peer(package, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


async def _run(package: Package, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        msg = f"{package.name} cannot be installed: {said.decode(errors='replace')[-500:]}"
        raise NotInstalledError(msg)
