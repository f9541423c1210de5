"""Runs the server as a process of its own: `python -m core.local.cosmos [--host H] [--port N]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys

from core.local.cosmos.server import CosmosServer


async def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; prints the endpoint and key as one JSON line once connections are accepted."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with CosmosServer(host, port) as server:
        sys.stdout.write(json.dumps({"endpoint": server.endpoint, "key": server.key}) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """Run the server and return the exit code: 0 after a signal, 1 if the address cannot be bound."""
    parser = argparse.ArgumentParser(prog="python -m core.local.cosmos", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(options.host, options.port))
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"cannot listen on {options.host}:{options.port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
