"""Runs several writes at once and lets all of them end before it says what went wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from core.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable


AT_ONCE: Final = 64
"""How many are begun before others have a turn of the loop, heartbeats among them."""


class StoppedError(TransientError):
    """Another write of the same call has failed, so this one was not begun."""


async def all_ended(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run everything concurrently until all of it has ended.

    Raises:
        BaseException: what went wrong; of several things the one that matters most.

    """
    begun: list[asyncio.Task[None]] = []
    try:
        for coroutine in work:
            begun.append(asyncio.ensure_future(coroutine))
            if len(begun) % AT_ONCE == 0:
                await asyncio.sleep(0)
    except BaseException:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        raise
    results = await asyncio.gather(*begun, return_exceptions=True)
    if failures := [result for result in results if result is not None]:
        raise _worst(failures)


def _worst(failures: list[BaseException]) -> BaseException:
    """Choose a fault of the program before a transient failure, then the longest wait that was asked for."""
    for error in failures:
        if not isinstance(error, TransientError):
            return error
    began = [error for error in failures if not isinstance(error, StoppedError)]
    return max(began or failures, key=lambda error: getattr(error, "retry_after_s", None) or 0.0)
