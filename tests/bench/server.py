"""Runs the embedded Cosmos DB as a process, so that what it uses can be told from what its client uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class ServerProcess:
    """A running server; CPU and memory are None where the system has no /proc."""

    pid: int
    endpoint: str
    key: str

    def cpu_seconds(self) -> float | None:
        """Return the processor time that it has used, user and system."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int | None:
        """Return the memory that it holds."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except FileNotFoundError:
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def server_process() -> Iterator[ServerProcess]:
    """Yield a server that ends with the context, and with this process however it ends."""
    command = [sys.executable, "-m", "core.local.cosmos", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = json.loads(process.stdout.readline())
            yield ServerProcess(process.pid, address["endpoint"], address["key"])
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
