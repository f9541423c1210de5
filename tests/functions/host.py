"""A small Functions host: one worker process, and Cosmos DB triggers by the documented rules of retry and checkpoint.

A listener reads one feed range and hands over page after page. A function that fails is called again by its retry
policy, with the same payload, in memory; when that is used up, or there is none, the lease moves on all the same and
the batch is lost. Without an end (-1) that lease waits. A host that stops does not move the lease of what did not end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from core.cosmos.feed import pages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.feed import FeedRange

ROOT = Path(__file__).parents[2]


def deploy(directory: Path) -> Path:
    """Link what is deployed into a directory: everything but what .funcignore names, of which the last line counts."""
    lines = [line for line in (ROOT / ".funcignore").read_text().splitlines() if line and line[0] != "#"]
    for path in ROOT.iterdir():
        naming = [line for line in lines if fnmatch(path.name, line.removeprefix("!"))]
        if not naming or naming[-1].startswith("!"):
            (directory / path.name).symlink_to(path)
    return directory


class WorkerDiedError(Exception):
    """The worker process has ended before it answered."""


class Worker:
    """One worker process; `functions` are by their name as it described them."""

    def __init__(self, process: asyncio.subprocess.Process, hello: dict[str, Any]) -> None:
        self._process = process
        self.uses_library: bool = hello["library"]
        self.init: dict[str, Any] = hello["init"]
        self.elsewhere: list[str] = hello["elsewhere"]
        self.functions: dict[str, dict[str, Any]] = {item["name"]: item for item in hello["functions"]}
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self._calls = 0

    @classmethod
    async def start(
        cls, environment: Mapping[str, str], directory: Path = ROOT, errors: IO[bytes] | None = None
    ) -> Worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.functions.worker", str(directory)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=1 << 30,
            env=dict(environment),
            cwd=ROOT,
        )
        assert process.stdout is not None
        return cls(process, json.loads(await process.stdout.readline()))

    async def invoke(self, function: str, argument: str, data: dict[str, Any], attempt: int = 0) -> dict[str, Any]:
        """Call a function; return the worker's answer.

        Raises:
            WorkerDiedError: there is none.

        """
        self._calls += 1
        answer = self._waiting[self._calls] = asyncio.get_running_loop().create_future()
        message = {"id": self._calls, "function": function, "argument": argument, "data": data, "attempt": attempt}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.drain()
        found: dict[str, Any] = await answer
        return found

    async def request(
        self, function: str, method: str = "GET", query: dict[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        """Call an HTTP function; return status and JSON body."""
        http = {"method": method, "url": f"https://app.example/api/{function}", "query": query or {}}
        if body is not None:
            http["body"] = json.dumps(body)
        answer = await self.invoke(function, "request", {"http": http})
        assert answer["result"]["status"] == 1, answer["result"]
        found = answer["return_value"]["http"]
        return int(found["status_code"]), json.loads(found["body"].get("bytes") or found["body"]["string"])

    async def tick(self, timer: str) -> dict[str, Any]:
        """Let a timer fire; return the result."""
        data = json.dumps({"IsPastDue": False, "Schedule": {"AdjustForDST": True}, "ScheduleStatus": None})
        result: dict[str, Any] = (await self.invoke(timer, "timer", {"json": data}))["result"]
        return result

    async def stop(self, *, kill: bool = False) -> None:
        assert self._process.stdin is not None
        if kill:
            self._process.kill()
        self._process.stdin.close()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            self._waiting.pop(message["id"]).set_result(message["answer"])
        for answer in self._waiting.values():
            answer.set_exception(WorkerDiedError())


@dataclass
class Lease:
    """One feed range of one function, as the lease container keeps it: it outlives worker and host."""

    container: ContainerProxy
    feed_range: FeedRange
    continuation: str | None = None

    async def skip_to_now(self) -> Lease:
        async for page in pages(self.container, self.feed_range, self.continuation, 1000):
            self.continuation = page.continuation
        return self


@dataclass
class Listener:
    """Hands the changes of one lease to one function.

    Args:
        worker: who runs the function.
        function: its name.
        lease: what it reads, and how far it is.
        spell: what the host's JSON makes of a document.
        lost: the errors of batches that were given up.
        failed: the errors of attempts that were followed by another.

    """

    worker: Worker
    function: str
    lease: Lease
    spell: Callable[[Document], Document] = lambda document: document
    lost: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def drain(self) -> int:
        """Hand over what is there now; return how many batches there were.

        Raises:
            WorkerDiedError: the lease stands before the batch that was under way.

        """
        [binding] = [
            item for item in self.worker.functions[self.function]["bindings"] if item["type"] == "cosmosDBTrigger"
        ]
        batches = 0
        size = binding["maxItemsPerInvocation"]
        source = pages(self.lease.container, self.lease.feed_range, self.lease.continuation, size)
        async with contextlib.aclosing(source) as found:
            async for page in found:
                if page.documents:
                    payload = json.dumps([self.spell(dict(document)) for document in page.documents])
                    if not await self._deliver(binding["name"], payload):
                        return batches
                    batches += 1
                self.lease.continuation = page.continuation
        return batches

    async def _deliver(self, argument: str, payload: str) -> bool:
        """Return whether the lease moves on."""
        policy = self.worker.functions[self.function]["retry"]
        most = int(policy["max_retry_count"]) if policy else 0
        attempt = 0
        while True:
            result = (await self.worker.invoke(self.function, argument, {"json": payload}, attempt))["result"]
            if result["status"] == 1:
                return True
            error = result["exception"]["message"]
            if attempt == most:
                self.lost.append(error)
                return True
            self.failed.append(error)
            attempt += 1
            if self.stopping.is_set():
                return False
            await asyncio.sleep(0.02)
