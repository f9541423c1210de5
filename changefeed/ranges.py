"""Finds the feed ranges that nobody has a position in yet, and gives them one: the beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from core.cosmos.feed import feed_ranges
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.ports import Feed

log = structlog.get_logger()

_ADD = "SELECT crossfeed.add_feed_ranges(%(feed)s, %(lowers)s, %(uppers)s)"


async def add_ranges(engine: AsyncEngine, feeds: Sequence[Feed]) -> None:
    """Give every range that is new a row of its own, also while other processors do the same.

    A range that overlaps a known one is left alone, however old or new the list is: of a range that was split the
    parts are written by whoever reads it, with its position; of ranges that were merged each is read on as it was.

    Raises:
        StoreUnavailableError: one of the stores did not answer.
        ConfigurationError: a container is not there.

    """
    for feed in feeds:
        found = await feed_ranges(feed.container)
        bounds = {"lowers": [of.lower for of in found], "uppers": [of.upper for of in found]}
        with translated(f"adding feed ranges of {feed.name}"):
            async with engine.begin() as connection:
                added = (await connection.exec_driver_sql(_ADD, {"feed": feed.name, **bounds})).scalar_one()
        if added:
            log.info("processor.feed_ranges_added", feed=feed.name, feed_ranges=added)
