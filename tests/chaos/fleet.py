"""Processes, relays or mirrors, that a test starts, kills, puts to sleep and wakes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from core.identity import Identity
from core.postgres.canaries import CANARY

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

ROOT = Path(__file__).parents[2]


class Fleet:
    """Processes of one command on one database. `log` is the file that all of them write their events to."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self.log = log
        self.pids: list[int] = []

    async def start(self) -> int:
        """Start one more and return its pid."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self.pids.append(int(await self._process.stdout.readline()))
        return self.pids[-1]

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one that may have ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def kill(self, pid: int) -> None:
        """`kill -9`."""
        self.signal(pid, signal.SIGKILL)
        self.pids.remove(pid)

    def stop(self, pid: int) -> None:
        """Ask one to end; it hands over what it holds."""
        self.signal(pid, signal.SIGTERM)
        self.pids.remove(pid)

    def reap(self) -> list[int]:
        """Forget those that have ended by themselves, and return their pids."""
        gone = [pid for pid in self.pids if not is_alive(pid)]
        self.pids = [pid for pid in self.pids if pid not in gone]
        return gone

    def addresses(self) -> list[str]:
        """Return where they have served their endpoints, also those that are gone."""
        return re.findall(r'"address": "(http:[^"]*)"', self.log.read_text(errors="replace"))

    async def ready(self) -> int:
        """Return how many say of themselves that their data path works."""
        ready = 0
        async with aiohttp.ClientSession() as session:
            for address in self.addresses():
                with contextlib.suppress(aiohttp.ClientError):  # it was killed
                    async with session.get(f"{address}/readyz") as answer:
                        ready += answer.status == HTTPStatus.OK
        return ready

    def crashes(self) -> list[str]:
        """Return the tracebacks, warnings and unexpected errors in the log; there should be none."""
        text = self.log.read_text(errors="replace")
        faults = re.findall(r".*(?:\"(?:relay|processor)\.unexpected\"|Warning: ).*", text)
        return faults + text.split("Traceback (most recent call last):\n")[1:]

    def endings(self) -> list[str]:
        """Return what those said that ended with an error of their own."""
        return re.findall(r"^a \w+ ended: (.*)$", self.log.read_text(errors="replace"), re.MULTILINE)


@asynccontextmanager
async def open_fleet(settings: Settings, log: Path, command: str = "relay", **environment: str) -> AsyncIterator[Fleet]:
    """Yield a fleet without processes; those that are left at the end are killed.

    Args:
        settings: where the stores are.
        log: the file for their logs.
        command: what each of them runs, `relay` or `mirror`.
        environment: what else each is told, such as CROSSFEED_RELAY_LEASE_S.

    """
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.command_process", command),
            cwd=ROOT,
            env={**os.environ, **environment_of(settings), **environment},
            start_new_session=True,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield Fleet(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # also those that are asleep
        await process.communicate()


def environment_of(settings: Settings) -> dict[str, str]:
    """Return what a process is told so that it uses the same stores."""
    assert settings.cosmos_key is not None
    cache: dict[str, str] = {}
    if settings.cache_url is not None:
        cache = {
            "CROSSFEED_CACHE_URL": settings.cache_url.get_secret_value(),
            "CROSSFEED_CACHE_PREFIX": settings.cache_prefix,
            "CROSSFEED_CACHE_TIMEOUT_MS": str(settings.cache_timeout_ms),
        }
    return cache | {
        "CROSSFEED_POSTGRES_DSN": settings.require_postgres(),
        "CROSSFEED_COSMOS_ENDPOINT": settings.require_cosmos(),
        "CROSSFEED_COSMOS_KEY": settings.cosmos_key.get_secret_value(),
        "CROSSFEED_COSMOS_DATABASE": settings.cosmos_database,
        "CROSSFEED_MAPPINGS": str(settings.mappings),
        "CROSSFEED_LOG_FORMAT": "json",
    }


async def written(engine: AsyncEngine) -> dict[str, list[Identity]]:
    """Every identity whose state has a message, by entity type."""
    found: dict[str, list[Identity]] = {}
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT DISTINCT entity, partition_key, id FROM crossfeed.outbox"
            " WHERE event_id IS NULL AND entity <> %(canary)s",
            {"canary": CANARY},
        )
        for entity, partition_key, id_ in map(tuple, result):
            found.setdefault(entity, []).append(Identity(entity, partition_key, id_))
    return found


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
