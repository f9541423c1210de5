"""Keeps empty partitions ahead of the log, so that no writer ever waits for one to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

AHEAD = 2
"""How many partitions above the sequence are empty, at least."""

KEEP_PARTITIONS = text("SELECT pg_advisory_xact_lock(hashtextextended('crossfeed.partitions', 0))")
"""Until the transaction ends no partition is made or dropped, and nobody is looking at one to drop it."""

_MAKE = text("SELECT crossfeed.make_partitions(:size, :ahead)")


async def make_partitions(engine: AsyncEngine, size: int) -> int:
    """Make the partitions that are missing ahead of the sequence, and return how many were made.

    None are made while another relay is at it, while a statement that writes has been running for a second, or while
    somebody uses the default partition for longer than 50 ms: messages for which there is no partition go there.

    Args:
        engine: of a role that may execute the schema's functions; it needs no right to create anything.
        size: sequence numbers of one partition.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer; repeat.

    """
    made = 0
    async with engine.connect() as connection:
        # Each statement commits itself: a process that is stopped in between must hold no lock.
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for _ in range(AHEAD):  # one at a time while the default partition is in use
            found: int = (await connection.execute(_MAKE, {"size": size, "ahead": AHEAD})).scalar_one()
            made += found
            if not found:
                break
    return made
