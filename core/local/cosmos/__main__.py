"""Runs the server as a process of its own: `python -m core.local.cosmos [--port N] [--tls] [--file PATH]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

from core.local.cosmos.server import CosmosServer
from core.local.cosmos.storage.file import FileInUseError, StorageError
from core.local.cosmos.wire.listening import MAX_PORT, BadHostError, ListenError


async def serve(server: CosmosServer, *, until_eof: bool) -> None:
    """Serve until SIGTERM or SIGINT; prints the endpoint and key as one JSON line once connections are accepted."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        threading.Thread(target=_wait_for_eof, args=(loop, stop), daemon=True).start()
    async with server:
        sys.stdout.write(json.dumps({"endpoint": server.endpoint, "key": server.key}) + "\n")
        sys.stdout.flush()
        await stop.wait()


def _wait_for_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # no standard input; the loop has ended already
        while os.read(0, 65_536):
            pass
        loop.call_soon_threadsafe(stop.set)


def main() -> int:
    """Run the server and return the exit code: 0 stopped, 1 port or file in use, 2 a wrong option, host or file."""
    options = _parser().parse_args()
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        factory = uvloop.new_event_loop
    server = CosmosServer(options.host, options.port, tls=options.tls, file=options.file)
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(server, until_eof=options.until_eof))
    except FileInUseError as error:
        return _failed(error, 1)
    except (BadHostError, StorageError) as error:
        return _failed(error, 2)
    except ListenError as error:
        return _failed(error, 1)
    return 0


def _failed(error: Exception, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m core.local.cosmos",
        description="An embedded Azure Cosmos DB (NoSQL API). Prints its endpoint and key as one JSON line as soon as "
        "it accepts connections, and serves until SIGTERM or SIGINT.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the key protects nothing: keep it on loopback")
    parser.add_argument("--port", type=_port, default=0, help="0, the default, takes a free one")
    parser.add_argument("--tls", action="store_true", help="speak TLS, with a certificate made now")
    parser.add_argument("--file", type=Path, help="keep everything in this file; without it, in memory")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends, too")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        message = f"{text} is not between 0 and {MAX_PORT}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
