"""Writes down every few seconds how far a process is behind and how much it has carried, for the status page."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from changefeed.progress import read_triggers
from core.errors import CrossfeedError
from core.postgres.dead_letters import Direction
from core.postgres.failures import translated
from core.postgres.samples import Sample, write_sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from functions.mirror_readiness import WatchedProcessor
    from functions.readiness import WatchedRelay

log = structlog.get_logger()

EVERY_S: Final = 10.0
"""How often a process does it."""
_WRITE_S: Final = 5.0
"""How long one may take before it is left out; the next one makes up for it."""
_FUNCTIONS: Final = "functions"


@asynccontextmanager
async def sampling(
    engine: AsyncEngine, direction: Direction, read: Callable[[], Sample], every_s: float = EVERY_S
) -> AsyncIterator[None]:
    """Write samples meanwhile; one that fails is left out, and never more than that.

    Args:
        engine: the database.
        direction: where the process carries to.
        read: says how it is doing, without waiting for anything.
        every_s: seconds between two of them.

    """
    writing = asyncio.ensure_future(_write(engine, direction, read, every_s))
    try:
        yield
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(engine: AsyncEngine, direction: Direction, read: Callable[[], Sample], every_s: float) -> None:
    source = str(uuid.uuid4())
    while True:
        try:
            async with asyncio.timeout(_WRITE_S):
                await write_sample(engine, source, direction, read())
        except Exception as error:  # noqa: BLE001 - a plot with a gap is no reason to stop carrying
            log.debug("sample.not_written", error=type(error).__name__)
        await asyncio.sleep(every_s)


def of_relay(relay: WatchedRelay) -> Callable[[], Sample]:
    """Return what reads a relay: the age of what it has not delivered, or the lag of what it delivered meanwhile."""
    before = 0

    def read() -> Sample:
        nonlocal before
        stats, health = relay.stats, relay.health()
        delivered = stats.last_lag_s if stats.messages > before else 0.0
        before = stats.messages
        is_idle = health.waits_for is not None or health.oldest_unsent_s is None
        lag_s = None if is_idle else max(health.oldest_unsent_s or 0.0, delivered)
        return Sample(lag_s, stats.messages)

    return read


def of_processor(processor: WatchedProcessor) -> Callable[[], Sample]:
    """Return what reads a processor: the lag of the feed range that is behind most, of those that it holds."""

    def read() -> Sample:
        lag_s = max((item.lag_s for item in processor.health().ranges), default=None)
        return Sample(lag_s, processor.stats.documents)

    return read


async def sample_triggers(engine: AsyncEngine) -> None:
    """Write what the triggers of a Functions app have done: a timer does it, one instance at a time. Raises nothing."""
    try:
        with translated("reading the state of the triggers"):
            async with engine.connect() as connection:
                found = await read_triggers(connection)
        if found.progress:
            lag_s = max((item.unseen_s for item in found.canaries), default=None)
            sample = Sample(lag_s, sum(item.documents for item in found.progress))
            await write_sample(engine, _FUNCTIONS, Direction.TO_POSTGRES, sample)
    except CrossfeedError as error:
        log.debug("sample.not_written", error=type(error).__name__)
