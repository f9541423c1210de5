"""Knows how Postgres became the primary: which documents it should have, though it holds nothing of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.envelope import Internal, Origin, Ours
from core.postgres.engine import fetch
from core.stamp import Stamp

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.phases import PhaseRow
    from core.postgres.authority import Change

_LEFT_BEHIND = "SELECT crossfeed.left_behind()"


async def read_barrier(connection: AsyncConnection) -> dict[str, int]:
    """Return, per container, the `_ts` below which a document may be one that Postgres should have, and has not.

    It is the second after that of the barrier's mark: Cosmos DB tells whole seconds, and what was acknowledged just
    before the mark must not be missed. A write that lands just after it was never answered, so it may take effect, too.

    Empty where there can be none: the switch found every live document's row (`complete`), or phase 2 was entered from
    phase 3, which gave every document without a row a tombstone, or there was no switch, so that Postgres was the
    primary from the beginning.

    Args:
        connection: in any transaction.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    [(barrier,)] = await fetch(connection, _LEFT_BEHIND, {})
    return {str(container): int(ts) + 1 for container, ts in (barrier or {}).items()}


def counts(change: Change, phase: PhaseRow, before_ts: int | None) -> bool:
    """Say whether a document that Postgres holds nothing of is one that Postgres should have.

    Args:
        change: the document.
        phase: the recorded phase; Postgres is the primary in it.
        before_ts: from `read_barrier` of the switch that made it the primary, in seconds since 1970: whatever is
            older was written while Cosmos DB was entitled to take it, and the rest is a late write or a rogue one. If
            there was no such switch, None: only what Crossfeed itself wrote there, in an earlier epoch, counts.

    """
    if change.deleted or isinstance(change.author, Internal):
        return False
    ours = change.author if isinstance(change.author, Ours) else None
    if ours is not None and ours.stamp.epoch >= phase.epoch:
        return False
    if before_ts is None:
        return ours is not None and ours.origin is Origin.COSMOS
    return change.position.ts < before_ts


def stamp_of(change: Change, phase: PhaseRow) -> Stamp:
    """Return the stamp of a backfilled row: its document's, or the first of the last epoch of Cosmos DB."""
    return change.author.stamp if isinstance(change.author, Ours) else Stamp(phase.epoch - 1, 1)
