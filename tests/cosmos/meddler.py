"""A network that can be told to fail: forwards to a server, and cuts connections or answers in its place."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import Self


@dataclass
class Cut:
    """Forward the next request of this verb, wait for the answer, and close the connection instead of passing it on."""

    verb: bytes


@dataclass
class Answer:
    """Answer the next request of this verb in the server's place."""

    verb: bytes
    status: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hang:
    """Never answer the next request of this verb, nor forward it."""

    verb: bytes


Plan = Cut | Answer | Hang


class Meddler:
    def __init__(self, host: str, port: int, key: str) -> None:
        self._target = (host, port)
        self.key = key
        self.plans: deque[Plan] = deque()
        self.seen: list[bytes] = []
        self.heads: list[str] = []
        self.hanging = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}/"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        try:
            while True:
                request = await _message(reader)
                verb = request.split(b" ", 1)[0]
                self.seen.append(verb)
                self.heads.append(request.partition(b"\r\n\r\n")[0].decode())
                plan = self.plans.popleft() if self.plans and self.plans[0].verb == verb else None
                if isinstance(plan, Answer):
                    writer.write(_canned(plan))
                    continue
                if isinstance(plan, Hang):
                    self.hanging.set()
                    await reader.read()
                    return
                up_writer.write(request)
                answer = await _message(up_reader)
                if isinstance(plan, Cut):
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, up_writer):
                end.close()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await end.wait_closed()
            self._tasks.discard(task)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    assert b"transfer-encoding" not in fields
    return head + await reader.readexactly(int(fields.get(b"content-length", 0)))


def _canned(plan: Answer) -> bytes:
    body = b'{"code":"Meddled","message":"meddled"}'
    lines = [f"HTTP/1.1 {plan.status} Meddled", f"content-length: {len(body)}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in plan.headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
