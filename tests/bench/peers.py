"""Measures Crossfeed against faststream-outbox: same Postgres, same rounds, each in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from core.domain.mappings import MAPPINGS
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.postgres.engine import open_engine
from core.settings import Settings
from outbox.relay import Relay
from tests.bench.drain import FILL, PAGE, NullSink
from tests.bench.inserting import CLIENTS, transactions_per_s
from tests.bench.wire import WrongAnswerError
from tests.integration.relay_steps import make_primary
from tests.stores import install, memory

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

PEER: Final = "faststream-outbox"
BARE: Final = "CREATE TABLE bare (LIKE accounts INCLUDING DEFAULTS INCLUDING INDEXES)"
PACKAGES: Final = (f"{PEER}[asyncpg]", "psycopg[binary]", "uvloop")
ROOT: Final = Path(__file__).parents[2]
OUR_MESSAGES: Final = 50_000
PEER_MESSAGES: Final = 10_000
"""Fewer, because it is slower; both are many pages."""


class Peer:
    """The process of the other one."""

    def __init__(self, process: Process) -> None:
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
            msg = f"{PEER} ended"
            raise WrongAnswerError(msg)
        return float(line)


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return how many times faster our relay drains, and what a captured insert costs, ours and the peer's.

    Costs are transactions a second of the bare insert, divided by those of the insert with its message.

    Raises:
        WrongAnswerError: the peer could not be installed, or it ended.

    """
    each = seconds / rounds / 4
    figures: dict[str, list[float]] = {}

    def note(**measured: float) -> None:
        for name, figure in measured.items():
            figures.setdefault(name, []).append(figure)

    async with EmbeddedPostgres(within=memory()) as postgres:
        settings = Settings.load(postgres_dsn=await postgres.create_database("bench"), relay_page_size=PAGE)
        await install(settings.require_postgres())
        async with open_engine(settings) as engine, _peer(settings) as peer:
            await make_primary(engine)
            async with engine.begin() as connection:
                await connection.exec_driver_sql(BARE)
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                bare, captured = (
                    await transactions_per_s(engine, "bare", each),
                    await transactions_per_s(engine, "accounts", each),
                )
                peer_bare, peer_published = await peer.ask("bare", each), await peer.ask("published", each)
                note(insert_cost=bare / captured, peer_insert_cost=peer_bare / peer_published)
                ours, theirs = await _drain(engine, settings), await peer.ask("drain", PEER_MESSAGES)
                note(drain_ratio=ours / theirs, messages_per_s=ours, peer_messages_per_s=theirs)
    medians = {name: median(of_rounds) for name, of_rounds in figures.items()}
    return {
        "peer": PEER,
        "drain_ratio": round(medians["drain_ratio"], 1),
        "insert_cost": round(medians["insert_cost"], 3),
        "peer_insert_cost": round(medians["peer_insert_cost"], 3),
        "messages_per_s": round(medians["messages_per_s"]),
        "peer_messages_per_s": round(medians["peer_messages_per_s"]),
        "clients": CLIENTS,
    }


async def _drain(engine: AsyncEngine, settings: Settings) -> float:
    """Return messages a second of distinct documents, through the whole relay but for Cosmos DB."""
    relay = Relay(settings, Mappings(MAPPINGS), engine, NullSink())
    await relay.drain()
    async with engine.begin() as connection:
        last = (await connection.exec_driver_sql("SELECT max(seq) FROM crossfeed.outbox")).scalar_one()
        await connection.exec_driver_sql(FILL, {"first": last + 1, "last": last + OUR_MESSAGES})
    loop = asyncio.get_running_loop()
    began = loop.time()
    messages = await relay.drain()
    took = loop.time() - began
    if messages != OUR_MESSAGES:
        msg = f"{messages} messages were relayed, not {OUR_MESSAGES}"
        raise WrongAnswerError(msg)
    return messages / took


@asynccontextmanager
async def _peer(settings: Settings) -> AsyncIterator[Peer]:
    with tempfile.TemporaryDirectory(prefix="crossfeed-peer-") as directory:
        python = str(Path(directory) / "bin" / "python")
        await _run(sys.executable, "-m", "venv", directory)
        await _run(python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *PACKAGES)
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", "tests.bench.peer_faststream"),
            cwd=ROOT,
            env={**os.environ, "PEER_DSN": settings.require_postgres()},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield Peer(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        msg = f"{PEER} cannot be installed: {said.decode(errors='replace')[-500:]}"
        raise WrongAnswerError(msg)
