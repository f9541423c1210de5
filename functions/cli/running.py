"""Runs a coroutine as the whole of a process, and ends it cleanly on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
    from typing import Any

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_YOUNG = 100_000
"""Allocations between two collections. Documents hold no cycles, and a page of them is tens of thousands of objects."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the fastest event loop that is installed."""
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def run_until_stopped(body: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until SIGTERM or Ctrl-C sets the event; a second one does not wait for a clean end."""

    async def main() -> None:
        stop = asyncio.Event()
        task = asyncio.ensure_future(body(stop))

        def on_signal() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        with _handling(dict.fromkeys(_SIGNALS, on_signal)), contextlib.suppress(asyncio.CancelledError):
            await task

    run(main())


def run_interruptible(body: Coroutine[Any, Any, T]) -> T:
    """Run to the end; a signal cancels it, everything is cleaned up, and the exit code is 128 + the signal."""
    received: list[signal.Signals] = []

    async def main() -> T:
        task = asyncio.ensure_future(body)

        def on_signal(number: signal.Signals) -> None:
            received.append(number)
            task.cancel()

        with _handling({number: partial(on_signal, number) for number in _SIGNALS}):
            return await task

    try:
        return run(main())
    except asyncio.CancelledError:
        if not received:
            raise
        raise typer.Exit(128 + received[0]) from None


@contextlib.contextmanager
def _handling(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
