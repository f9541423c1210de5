"""Sleeps that a stop ends."""

from __future__ import annotations

import asyncio


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, but not beyond the moment when `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
