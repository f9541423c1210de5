"""Says when everything that was committed in Postgres has been delivered: each slot's cursor is past a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.migration.ports import Behind

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_SNAPSHOT = "SELECT pg_current_snapshot()::text"

# A cursor is past a snapshot if it shows every transaction that the snapshot shows: those it does not show are at or
# above its xmax, or in its list.
_BEHIND = """
    SELECT s.slot, (SELECT count(*) FROM crossfeed.parked)
    FROM (SELECT) AS once LEFT JOIN crossfeed.slot s ON
        pg_snapshot_xmax(s.seen) < pg_snapshot_xmax(%(snapshot)s::pg_snapshot) OR EXISTS (
            SELECT FROM pg_snapshot_xip(s.seen) AS xid WHERE pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot))
    ORDER BY 1
"""
_UNSENT = """
    SELECT u.slot, (SELECT count(*) FROM crossfeed.parked)
    FROM (SELECT) AS once LEFT JOIN crossfeed.unsent(1) AS u ON true ORDER BY 1
"""


class SlotBarrier:
    """The log of one database, as core.migration.ports.LogBarrier."""

    async def snapshot(self, connection: AsyncConnection) -> str:
        """See LogBarrier."""
        found: str = (await connection.exec_driver_sql(_SNAPSHOT)).scalar_one()
        return found

    async def behind(self, connection: AsyncConnection, snapshot: str) -> Behind:
        """See LogBarrier."""
        return _behind([tuple(row) for row in await connection.exec_driver_sql(_BEHIND, {"snapshot": snapshot})])

    async def unsent(self, connection: AsyncConnection) -> Behind:
        """See LogBarrier."""
        return _behind([tuple(row) for row in await connection.exec_driver_sql(_UNSENT)])


def _behind(rows: list[tuple[int | None, int]]) -> Behind:
    return Behind(tuple(slot for slot, _ in rows if slot is not None), rows[0][1])
