"""Drops the partitions of the log that every cursor has passed and that are older than what is kept for a replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.errors import StoreUnavailableError
from core.postgres.failures import driver_error, scrubbed
from outbox.partitions import make_partitions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

log = structlog.get_logger()

_DROP = text("SELECT crossfeed.drop_partition(:keep_s)")
_MOST = 100
"""How many partitions one call drops: it must come to an end."""


@dataclass(frozen=True, slots=True)
class Maintained:
    """What one call did: partitions `made` and `dropped`. `is_held`: a cursor keeps the oldest from being dropped."""

    made: int
    dropped: int
    is_held: bool


async def maintain(engine: AsyncEngine, settings: Settings) -> Maintained:
    """Make the partitions that are missing, and drop those that nobody needs; any relay may do it at any time.

    A writer waits at most 50 ms for it. What cannot be had in that time is left for the next call.

    Raises:
        StoreUnavailableError: Postgres did not answer; repeat.

    """
    try:
        made = await make_partitions(engine, settings.outbox_partition_size)
        dropped, outcome = 0, await _drop(engine, settings.outbox_keep_s)
        while outcome == "dropped" and dropped < _MOST:
            dropped, outcome = dropped + 1, await _drop(engine, settings.outbox_keep_s)
    except (psycopg.Error, DBAPIError) as error:
        # Whatever it was: the log takes messages without it, and the next call finds everything as it was.
        cause = driver_error(error)
        msg = f"keeping the partitions of the log: {type(cause or error).__name__}"
        raise StoreUnavailableError(msg) from scrubbed(error)
    if made or dropped:
        log.info("outbox.partitions", made=made, dropped=dropped)
    if outcome == "newly held":
        log.warning("outbox.retention_held", keep_s=settings.outbox_keep_s, see="crossfeed outbox status")
    return Maintained(made, dropped, outcome in {"held", "newly held"})


async def _drop(engine: AsyncEngine, keep_s: float) -> str | None:
    """Drop one partition in a transaction of its own: the lock that it needs stops every writer.

    One statement, which commits itself: a process that is stopped after it was sent must not hold that lock.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        outcome: str | None = (await connection.execute(_DROP, {"keep_s": keep_s})).scalar_one()
    return outcome
