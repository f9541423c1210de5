"""Knows how Postgres became the primary: which documents it should have, though it holds nothing of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.envelope import Internal, Origin, Ours
from core.postgres.engine import fetch
from core.stamp import Stamp

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.phases import PhaseRow
    from core.postgres.authority import Change

_LEFT_BEHIND = "SELECT crossfeed.left_behind()"


@dataclass(frozen=True, slots=True)
class Barrier:
    """Where the documents of one container end that Postgres may have to take over still.

    Args:
        before_ts: what is older, in seconds since 1970, was written while Cosmos DB was entitled to take it.
        epoch: the last one in which it was.

    """

    before_ts: int
    epoch: int


async def read_barrier(connection: AsyncConnection) -> dict[str, Barrier]:
    """Return, per container, where the documents end that Postgres should have, and may not have.

    `before_ts` is the second after that of the barrier's mark: Cosmos DB tells whole seconds, and what was acknowledged
    just before the mark must not be missed. A write that lands just after it was never answered, so it may take effect,
    too.

    Empty where there can be none: the switch found every live document's row (`complete`), or phase 2 was entered from
    phase 3, which gave every document without a row a tombstone, or there was no switch, so that Postgres was the
    primary from the beginning.

    Args:
        connection: in any transaction.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    [(found,)] = await fetch(connection, _LEFT_BEHIND, {})
    marks = (found or {}).get("barrier") or {}
    return {str(container): Barrier(int(ts) + 1, int(found["epoch"])) for container, ts in marks.items()}


def counts(change: Change, phase: PhaseRow, barrier: Barrier | None) -> bool:
    """Say whether a document that Postgres holds nothing of is one that Postgres should have.

    Args:
        change: the document.
        phase: the recorded phase; Postgres is the primary in it.
        barrier: from `read_barrier`, of the switch that made it the primary: whatever is newer is a late write or a
            rogue one. If there was no such switch, None: only what Crossfeed itself wrote there, in an earlier epoch,
            counts.

    """
    if change.deleted or isinstance(change.author, Internal):
        return False
    ours = change.author if isinstance(change.author, Ours) else None
    if ours is not None and ours.stamp.epoch >= phase.epoch:
        return False
    if barrier is None:
        return ours is not None and ours.origin is Origin.COSMOS
    return change.position.ts < barrier.before_ts


def stamp_of(change: Change, barrier: Barrier | None) -> Stamp:
    """Return the stamp of a backfilled row: its document's, or the first of the last epoch of Cosmos DB.

    Args:
        change: a document that counts.
        barrier: as it was given to `counts`.

    """
    if isinstance(change.author, Ours):
        return change.author.stamp
    assert barrier is not None, "without a barrier only what Crossfeed itself wrote counts"
    return Stamp(barrier.epoch, 1)
