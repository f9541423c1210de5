"""Relays as processes of their own, each the command `crossfeed relay`: for each line on stdin one is forked.

Its pid is printed. Everything is imported once, before the first fork, so that a test that kills many does not wait for
imports.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import outbox.relay  # noqa: F401 - what a relay loads
from core.errors import CrossfeedError
from core.settings import Settings
from functions import bootstrap  # noqa: F401 - what a relay loads
from functions.cli import processes


def relay() -> int:
    """Run the command; return its exit code."""
    try:
        processes.relay()
    except CrossfeedError as error:
        print(f"a relay ended: {error}", file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 - it goes to the log, where the test looks for it
        traceback.print_exc()
        return 70
    return 0


def main() -> None:
    Settings.load().load_mappings()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped by the kernel
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = relay()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
