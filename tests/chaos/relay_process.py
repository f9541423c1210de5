"""Relays as processes of their own: for each line on stdin one more is forked, and its pid printed.

Everything is imported once, before the first fork, so that a test that kills many does not wait for imports.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from core.cosmos.client import open_cosmos
from core.postgres.engine import open_engine
from core.settings import Settings
from core.telemetry import configure_logging
from outbox.relay import open_relay

if TYPE_CHECKING:
    from core.mappings import Mappings


async def relay(settings: Settings, mappings: Mappings) -> None:
    async with open_engine(settings) as engine, open_cosmos(settings) as store:
        await open_relay(settings, mappings, engine, store).run(asyncio.Event())


def main() -> None:
    settings = Settings.load()
    configure_logging(settings)  # to stderr: stdout is for pids
    mappings = settings.load_mappings()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped by the kernel
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(relay(settings, mappings))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
