"""A TCP proxy that delays what it passes on: the network between an application and its database.

Threads, not an event loop: loops sleep in whole milliseconds. Runs as a process of its own, so that it shares no
interpreter lock with what is measured: `python -m tests.bench.slow_network HOST PORT ROUND_TRIP_MS`.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
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


def _pass_on(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Delay each request, which is right for a protocol of one request and one answer."""
    try:
        while data := source.recv(_CHUNK):
            time.sleep(delay_s)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def _serve(listener: socket.socket, host: str, port: int, delay_s: float) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, port))
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pass_on, args=(one, other, delay_s), daemon=True).start()


def main() -> None:
    """Serve until stdin ends."""
    host, port, rtt_ms = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, host, int(port), float(rtt_ms) / 2 / 1000), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
