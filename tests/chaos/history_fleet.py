"""Relays, mirrors, clients and operators of a history: real processes that are killed, put to sleep and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from tests.chaos.fleet import ROOT, is_alive

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path


@dataclass(slots=True)
class Running:
    """One process. `output` is the file of its standard output; nobody else writes there."""

    role: str
    arguments: tuple[str, ...]
    pid: int
    output: Path
    is_asleep: bool = False
    begun: float = field(default_factory=time.monotonic)

    @property
    def is_alive(self) -> bool:
        """Whether it is still there, awake or asleep."""
        return is_alive(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; it may have ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def sleep(self, seconds: float) -> None:
        """Stop it in the middle of whatever it does, and let it go on later."""
        self.is_asleep = True
        self.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.signal(signal.SIGCONT)
            self.is_asleep = False

    async def ended(self, timeout_s: float) -> tuple[int | None, str]:
        """Wait until it is gone; return its exit code, None if it was killed, and what it printed.

        Raises:
            TimeoutError: it is still there.

        """
        async with asyncio.timeout(timeout_s):
            while self.is_alive:  # noqa: ASYNC110 - it is no child of this process
                await asyncio.sleep(0.01)
        printed = self.output.read_text()
        code = _code(self.output)
        return code, printed if code is None else printed.strip().rpartition("\n")[0]


def _code(output: Path) -> int | None:
    """Return the exit code of the process that has written this, None if it was killed."""
    last = output.read_text().strip().rpartition("\n")[2]
    return int(last) if last.isdigit() else None


class Forge:
    """What all processes of any number of histories are forked from."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._lock = asyncio.Lock()

    async def start(self, order: Mapping[str, object]) -> int:
        """Start one and return its pid."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            return int(await self._process.stdout.readline())


@asynccontextmanager
async def open_forge() -> AsyncIterator[Forge]:
    """Yield one; whatever it has started is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.history_process"),
        cwd=ROOT,
        start_new_session=True,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Forge(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # also those that are asleep
        await process.communicate()


class Fleet:
    """The processes of one history.

    Args:
        forge: where they come from.
        directory: of their files.
        environment: of all of them.

    """

    def __init__(self, forge: Forge, directory: Path, environment: dict[str, str]) -> None:
        self._forge = forge
        self._environment = environment
        self._numbers = count(1)
        self.directory = directory
        self.running: list[Running] = []

    async def start(self, role: str, *arguments: str) -> Running:
        """Start one more: `role` is a relay, a mirror, a client or an operator; `arguments` what it runs."""
        output = self.directory / f"{next(self._numbers)}-{role}.out"
        output.touch()  # it may be killed before it opens it
        order = {
            "arguments": arguments,
            "environment": self._environment,
            "output": str(output),
            "errors": str(self.directory / f"{role}.log"),
        }
        running = Running(role, arguments, await self._forge.start(order), output)
        self.running.append(running)
        return running

    def reap(self) -> None:
        """Forget those that are gone."""
        self.running = [each for each in self.running if each.is_alive]

    def awake(self, *roles: str) -> list[Running]:
        """Return those that are at work."""
        self.reap()
        return [each for each in self.running if each.role in roles and not each.is_asleep]

    def faults(self) -> list[str]:
        """Return who ended by an error, and the tracebacks, warnings and unexpected errors in all logs."""
        found = []
        for file in sorted(self.directory.glob("*.out")):
            code = _code(file)
            if code and not file.match("*-operator.out"):
                found.append(f"{file.stem} ended by itself: {code}")
        for file in sorted(self.directory.glob("*.log")):
            text = file.read_text(errors="replace")
            found += re.findall(r".*(?:\"[a-z_]+\.unexpected\"|Warning: ).*", text)
            found += text.split("Traceback (most recent call last):\n")[1:]
        return found
