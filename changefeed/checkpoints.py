"""Keeps how far each feed range has been mirrored, in the transaction that mirrored it: so a batch takes effect once.

A checkpoint moves only from the very continuation that its reader went on from. A processor that was believed dead, or
a second one, therefore finds its batch rolled back instead of moving the checkpoint backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import ConcurrencyError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class CheckpointMovedError(ConcurrencyError):
    """Somebody else has mirrored this feed range further; read the checkpoint again."""


@dataclass(frozen=True, slots=True)
class Step:
    """The move of one checkpoint past one page of the change feed.

    Args:
        container: the container's name.
        feed_range: the key of its feed range (`core.cosmos.feed.FeedRange.key`).
        before: the continuation that the page was read from, None for the beginning.
        after: the continuation past the page.
        epoch: the epoch in which it was read.

    """

    container: str
    feed_range: str
    before: str | None
    after: str
    epoch: int


_READ = """
    SELECT continuation FROM crossfeed.checkpoint WHERE container = %(container)s AND feed_range = %(feed_range)s
"""

# One statement for both: the first page finds no row, all others find the row as their reader left it.
_MOVE = """
    INSERT INTO crossfeed.checkpoint AS c (container, feed_range, continuation, epoch)
    SELECT %(container)s, %(feed_range)s, %(after)s, %(epoch)s
    WHERE %(before)s::text IS NULL OR EXISTS (
        SELECT FROM crossfeed.checkpoint WHERE container = %(container)s AND feed_range = %(feed_range)s)
    ON CONFLICT (container, feed_range) DO UPDATE
        SET continuation = excluded.continuation, epoch = excluded.epoch, at = clock_timestamp()
        WHERE c.continuation = %(before)s
"""


async def read_checkpoint(connection: AsyncConnection, container: str, feed_range: str) -> str | None:
    """Return the continuation to go on from, None for the beginning."""
    found = await connection.exec_driver_sql(_READ, {"container": container, "feed_range": feed_range})
    continuation: str | None = found.scalar_one_or_none()
    return continuation


async def move_checkpoint(connection: AsyncConnection, step: Step) -> None:
    """Move a checkpoint in the caller's transaction.

    Raises:
        CheckpointMovedError: it is not where the page was read from; the caller rolls its batch back.

    """
    moved = await connection.exec_driver_sql(
        _MOVE,
        {
            "container": step.container,
            "feed_range": step.feed_range,
            "before": step.before,
            "after": step.after,
            "epoch": step.epoch,
        },
    )
    if moved.rowcount != 1:
        msg = f"the checkpoint of {step.container!r} {step.feed_range} was moved by another processor"
        raise CheckpointMovedError(msg)
