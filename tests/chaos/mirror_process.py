"""`crossfeed mirror` as processes of their own: for each line on stdin one more is forked, and its pid printed.

Everything is imported once, before the first fork, so that a test that kills many does not wait for imports.
"""

from __future__ import annotations

import os
import signal
import sys

import functions.bootstrap  # noqa: F401 - for the children
from functions.cli import main as crossfeed


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped by the kernel
    sys.argv = ["crossfeed", "mirror"]
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            crossfeed()
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
