"""Processes of a command, such as `crossfeed relay`, each of its own: for each line on stdin one is forked.

Its pid is printed. Everything is imported once, before the first fork, so that a test that kills many does not wait for
imports.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from core.errors import CrossfeedError
from core.settings import Settings
from functions import bootstrap  # noqa: F401 - what they load
from functions.cli import processes


def run(command: str) -> int:
    """Run a command; return its exit code."""
    try:
        getattr(processes, command)()
    except CrossfeedError as error:
        print(f"a {command} ended: {error}", file=sys.stderr)
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
            code = run(sys.argv[1])
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
