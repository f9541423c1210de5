"""Keeps how far each feed range has been applied, in the transaction that applied it: so a batch takes effect once.

A checkpoint moves only for the processor that holds the range, and only from the very continuation that its reader went
on from. One that was believed dead, or a commit of its own whose answer was lost, therefore finds its batch rolled back
instead of moving the checkpoint backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.postgres.leases import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from changefeed.feed_leases import FeedLease
    from core.cosmos.feed import FeedPart


@dataclass(frozen=True, slots=True)
class Step:
    """The move of one checkpoint.

    Args:
        lease: what it is of, as its reader holds it.
        before: the continuation that the checkpoint held when its reader began, None for the beginning.
        after: where it is now; more than one part if the range was split.

    """

    lease: FeedLease
    before: str | None
    after: Sequence[FeedPart]


_READ = """
    SELECT continuation FROM crossfeed.feed_range
    WHERE feed = %(feed)s AND lower_bound = %(lower)s AND upper_bound = %(upper)s AND token = %(token)s
"""

_MOVE = """
    UPDATE crossfeed.feed_range
    SET continuation = %(after)s, epoch = (SELECT epoch FROM crossfeed.phase), at = clock_timestamp()
    WHERE feed = %(feed)s AND lower_bound = %(lower)s AND upper_bound = %(upper)s AND token = %(token)s
        AND continuation IS NOT DISTINCT FROM %(before)s
"""

# The parts stay with whoever read the whole, until its next heartbeat finds them too many. A part that is there already
# goes on from here: what it has read twice does no harm, what nobody has read would.
_SPLIT = """
    WITH whole AS (
        DELETE FROM crossfeed.feed_range
        WHERE feed = %(feed)s AND lower_bound = %(lower)s AND upper_bound = %(upper)s AND token = %(token)s
            AND continuation IS NOT DISTINCT FROM %(before)s
        RETURNING feed, owner)
    INSERT INTO crossfeed.feed_range AS r (feed, lower_bound, upper_bound, continuation, epoch, owner)
    SELECT feed, part.lower, part.upper, part.after, phase.epoch, owner
    FROM whole, crossfeed.phase,
        unnest(%(lowers)s::text[], %(uppers)s::text[], %(afters)s::text[]) AS part(lower, upper, after)
    ON CONFLICT (feed, lower_bound, upper_bound) DO UPDATE SET continuation = excluded.continuation,
        epoch = excluded.epoch, owner = excluded.owner, token = nextval('crossfeed.feed_token'), at = clock_timestamp()
"""


async def read_checkpoint(connection: AsyncConnection, lease: FeedLease) -> str | None:
    """Return the continuation to go on from, None for the beginning.

    Raises:
        LeaseLostError: the range is another processor's, or was split.

    """
    found = (await connection.exec_driver_sql(_READ, lease.where)).all()
    if not found:
        raise _lost(lease)
    continuation: str | None = found[0][0]
    return continuation


async def move_checkpoint(connection: AsyncConnection, step: Step) -> None:
    """Move a checkpoint in the caller's transaction; that of a range that was split becomes one for each part.

    Raises:
        LeaseLostError: the range is another processor's, or its checkpoint is not where the page was read from; the
            caller rolls its batch back.

    """
    facts = {**step.lease.where, "before": step.before}
    if len(step.after) == 1:
        moved = await connection.exec_driver_sql(_MOVE, {**facts, "after": step.after[0].continuation})
    else:
        ranges = [part.range for part in step.after]
        facts |= {"lowers": [of.lower for of in ranges], "uppers": [of.upper for of in ranges]}
        facts |= {"afters": [part.continuation for part in step.after]}
        moved = await connection.exec_driver_sql(_SPLIT, facts)
    if moved.rowcount != len(step.after):
        raise _lost(step.lease)


def _lost(lease: FeedLease) -> LeaseLostError:
    return LeaseLostError(f"{lease.feed} {lease.range.key} is another processor's, or was moved on meanwhile")
