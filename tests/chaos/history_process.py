"""Processes of a history, all of them forks of this one: a line on stdin says which (JSON), its pid is printed.

    {"arguments": ["relay"], "environment": {"CROSSFEED_…": "…"}, "output": "stdout of it", "errors": "stderr of it"}

The arguments are those of the command `crossfeed`, or `client` and those of tests.chaos.history_client.client.
Everything is imported once, before the first fork. The last line of an output is the exit code of who was not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

from functions import bootstrap, cli  # noqa: F401 - what they load
from tests.chaos.history_client import client


def run(arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    sys.argv = ["crossfeed", *arguments]
    try:
        if arguments[0] == "client":
            client(*arguments[1:])
        else:
            cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - it goes to the log, where the test looks for it
        traceback.print_exc()
        return 70
    return 0


def become(order: dict[str, Any]) -> None:
    """Do what was ordered, as a process of its own, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(order["environment"])
    for number, file in ((1, order["output"]), (2, order["errors"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    code = run(order["arguments"])
    sys.stderr.flush()
    print(code, flush=True)
    os._exit(code)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped by the kernel
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(json.loads(line))
        print(pid, flush=True)
    os.killpg(0, signal.SIGKILL)  # whoever asked for them is gone, however that ended


if __name__ == "__main__":
    main()
