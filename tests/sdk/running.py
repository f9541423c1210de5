"""Runs files of the SDK's tests against the embedded server, each in a pytest of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias
from xml.etree import ElementTree as ET

from tests.sdk import source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EMULATOR_PORT = 8081  # where the SDK's tests look for an emulator
WHOLE_FILE = "(the file)"
_STAND_INS = Path(__file__).parent / "stand_ins"
_TEST_TIMEOUT_S = 300  # some wait for more than a minute; one that is cut off may hang in its clean-up
_FILE_TIMEOUT_S = 900
_STOP_TIMEOUT_S = 5.0
_REASON_LENGTH = 300
# Nothing of our own pytest configuration, nor of what else is installed, applies to them; their files use both plugins.
_PYTEST = (
    *("-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin"),
    *("-p", "pytest_timeout", "-o", "asyncio_mode=auto", "--timeout", str(_TEST_TIMEOUT_S)),
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # new in each run


class State(Enum):
    """How a test ended; the worse, the later."""

    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one test, named as pytest names it after the file; `reason` says why it did not pass."""

    test: str
    state: State
    reason: str = ""


@dataclass(frozen=True)
class FileRun:
    """What became of the tests of one file, and how many seconds that took."""

    file: str
    outcomes: tuple[Outcome, ...]
    seconds: float

    def count(self, state: State) -> int:
        """Return how many tests ended so."""
        return sum(outcome.state is state for outcome in self.outcomes)


Progress: TypeAlias = Callable[[str], None]


class ServerError(Exception):
    """The embedded server did not start; the message says why."""


async def run(files: Sequence[str], jobs: int, say: Progress, cache: Path = source.CACHE) -> list[FileRun]:
    """Run test files, `jobs` at a time, against one server on the emulator's port, or on a free one where it is taken.

    Raises:
        SourceError: the tests could not be fetched.
        ServerError: the server did not start.
    """
    pin = source.pinned()
    archive = await asyncio.to_thread(source.fetch, pin, cache)
    with TemporaryDirectory(prefix="crossfeed-sdk-tests-") as folder:
        tests = source.unpack(archive, Path(folder))
        missing = [file for file in files if not (tests / file).is_file()]
        if missing:
            raise source.SourceError(f"azure-cosmos {pin.version} has no {', '.join(missing)}")
        async with _server() as server:
            say(f"azure-cosmos {pin.version}, {len(files)} test files, against {server.endpoint}")
            if source.point_at(server.endpoint, tests):
                say(f"port {EMULATOR_PORT} is taken: the address in their test_config.py was rewritten")
            return await _Runner(tests, server, asyncio.Semaphore(jobs), say).run_all(files)


@dataclass(frozen=True)
class _Server:
    """A running server."""

    endpoint: str
    key: str


class _Runner:
    """Runs files of one unpacked distribution against one server."""

    def __init__(self, tests: Path, server: _Server, free: asyncio.Semaphore, say: Progress) -> None:
        self._tests = tests
        self._free = free
        self._say = say
        self._environment = {**os.environ, "ACCOUNT_HOST": server.endpoint, "ACCOUNT_KEY": server.key}
        self._environment |= {"PYTHONPATH": str(_STAND_INS), "PYTHONDONTWRITEBYTECODE": "1"}
        self._environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}

    async def run_all(self, files: Sequence[str]) -> list[FileRun]:
        """Run files, as many at a time as may."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run(file)) for file in files]
        return [task.result() for task in tasks]

    async def _run(self, file: str) -> FileRun:
        async with self._free:
            done = await _run_file(file, self._tests, self._environment)
        counts = ", ".join(f"{done.count(state)} {state.value}" for state in State)
        self._say(f"{file}: {counts}, {done.seconds:.1f} s")
        return done


@asynccontextmanager
async def _server() -> AsyncIterator[_Server]:
    failure = ""
    for port in (EMULATOR_PORT, 0):
        # A session of its own: Ctrl-C is for the runner, which ends the server last.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("serve.py")), str(port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            cwd=source.ROOT,
            env={**os.environ, "PYTHONPATH": str(source.ROOT)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = asyncio.ensure_future(process.stderr.read())
        try:
            line = await process.stdout.readline()
            if line:
                address = json.loads(line)
                endpoint = address["endpoint"].replace("127.0.0.1", "localhost")
                yield _Server(endpoint, address["key"])
                return
            failure = (await said).decode(errors="replace").strip()
        finally:
            process.stdin.close()
            await asyncio.shield(_ended(process))
            await said
    raise ServerError(f"the embedded server did not start:\n{failure}")


async def _run_file(file: str, tests: Path, environment: dict[str, str]) -> FileRun:
    report = tests / f"{file}.xml"
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *_PYTEST, f"--rootdir={tests}", f"--junitxml={report}", file),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        cwd=tests,
        env=environment,
    )
    try:
        async with asyncio.timeout(_FILE_TIMEOUT_S):
            said, _ = await process.communicate()
        output = said.decode(errors="replace").strip()
    except TimeoutError:
        output = f"not done within {_FILE_TIMEOUT_S} s"
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    seconds = time.monotonic() - begun
    found = outcomes(report.read_text(encoding="utf-8")) if report.is_file() else ()
    return FileRun(file, found or (Outcome(WHOLE_FILE, State.FAILED, output[-_REASON_LENGTH:]),), seconds)


def outcomes(junit: str) -> tuple[Outcome, ...]:
    """Read a JUnit report of one file; a test that is in it twice (it failed, then its tear-down too) counts once."""
    worst: dict[str, Outcome] = {}
    order = list(State)
    for case in ET.fromstring(junit).iter("testcase"):
        found = _outcome(case)
        known = worst.get(found.test)
        if known is None or order.index(found.state) > order.index(known.state):
            worst[found.test] = found
    return tuple(worst.values())


def _outcome(case: ET.Element) -> Outcome:
    name, within = case.get("name", ""), case.get("classname", "").partition(".")[2]
    test = _UUID.sub("*", f"{within}::{name}" if within else name)
    for tag, state in (("failure", State.FAILED), ("error", State.FAILED), ("skipped", State.SKIPPED)):
        element = case.find(tag)
        if element is not None:
            reason = (element.get("message") or element.text or "").strip()
            return Outcome(test, state, reason[:_REASON_LENGTH])
    return Outcome(test, State.PASSED)


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
