"""A TCP proxy that delays what it passes on: the network between an application and its database.

One thread and `select`, which sleeps in microseconds where event loops sleep in whole milliseconds. It costs time of
processors that the measured ones want as well, so it does as little as it can: a request waits for the whole round
trip and its answer for nothing, which is the same to a client of one request and one answer. Runs as a process of its
own, so that it shares no interpreter lock with what is measured:
`python -m tests.bench.slow_network HOST PORT ROUND_TRIP_MS`.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 65536


@contextmanager
def slow_network(host: str, port: int, rtt_ms: float) -> Iterator[int]:
    """Yield the port of a proxy that adds `rtt_ms` milliseconds to every round trip."""
    command = [sys.executable, "-m", __name__, host, str(port), str(rtt_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # it ends with this process, however that ends


class _Network:
    """Every connection of the proxy; `rtt_s` is in seconds."""

    def __init__(self, host: str, port: int, rtt_s: float) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._server = (host, port)
        self._rtt_s = rtt_s
        self._targets: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._late: deque[tuple[float, socket.socket, bytes]] = deque()

    def serve(self) -> None:
        """Serve until stdin ends."""
        while True:
            patience = max(0.0, self._late[0][0] - time.perf_counter()) if self._late else None
            ready, _, _ = select.select([*self._targets, self.listener, sys.stdin], (), (), patience)
            for source in ready:
                if source is sys.stdin:
                    return
                if source is self.listener:
                    self._accept()
                elif source in self._targets:
                    self._take(source)
            while self._late and self._late[0][0] <= time.perf_counter():
                _, target, data = self._late.popleft()
                self._give(target, data)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        server = socket.create_connection(self._server)
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._targets[one] = other
        self._clients.add(client)

    def _take(self, source: socket.socket) -> None:
        target = self._targets[source]
        try:
            data = source.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            del self._targets[source]
        if source in self._clients:
            self._late.append((time.perf_counter() + self._rtt_s, target, data))
        else:
            self._give(target, data)

    def _give(self, target: socket.socket, data: bytes) -> None:
        try:
            if data:
                target.sendall(data)
            else:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()
            self._targets.pop(target, None)


def main() -> None:
    """Say on stdout which port it is, then serve."""
    host, port, rtt_ms = sys.argv[1:]
    network = _Network(host, int(port), float(rtt_ms) / 1000)
    print(network.listener.getsockname()[1], flush=True)
    network.serve()


if __name__ == "__main__":
    main()
