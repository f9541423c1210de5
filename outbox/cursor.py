"""Remembers per slot which part of the log has been delivered.

A cursor is a snapshot, not a number: everything visible in `seen` has been delivered. A long or late transaction holds
nothing back and is not skipped, because it is told by its id, however old its messages are. A delta that does not fit
one page is fixed by a second snapshot, `target`, and paged by `position`, the sequence number delivered last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox.snapshot import Snapshot

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Cursor:
    """Delivered is what `seen` shows, and of what `target` shows beyond it all up to the sequence number `position`."""

    seen: Snapshot
    target: Snapshot | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """Slots that stand at the very same cursor: one statement reads them all."""

    slots: tuple[int, ...]
    cursor: Cursor


_LOAD = """
    SELECT array_agg(slot ORDER BY slot), seen::text AS seen, target::text AS target, position FROM crossfeed.slot
    WHERE carries = 'states' GROUP BY 2, 3, 4 ORDER BY 1
"""

# pg_snapshot has no equality; its text is canonical. The comparison is what keeps a second relay from moving the
# cursor backwards: snapshots and positions only grow, so what was read is never true again once it has moved.
_ADVANCE = """
    UPDATE crossfeed.slot
    SET seen = %(new_seen)s::pg_snapshot, target = %(new_target)s::pg_snapshot, position = %(new_position)s,
        at = clock_timestamp()
    WHERE slot = ANY(%(slots)s) AND seen::text = %(seen)s AND target::text IS NOT DISTINCT FROM %(target)s::text
        AND position = %(position)s
"""


async def load_groups(connection: AsyncConnection) -> list[SlotGroup]:
    """Return the cursors of all slots, equal ones together."""
    result = await connection.exec_driver_sql(_LOAD)
    return [
        SlotGroup(
            tuple(slots),
            Cursor(Snapshot.parse(seen), Snapshot.parse(target) if target is not None else None, position),
        )
        for slots, seen, target, position in map(tuple, result)
    ]


async def advance(connection: AsyncConnection, group: SlotGroup, to: Cursor) -> bool:
    """Move the cursor of a group's slots, in the caller's transaction, if it still is where it was read.

    Returns:
        False: another relay has moved at least one of them; that one was left alone.

    """
    now = group.cursor
    result = await connection.exec_driver_sql(
        _ADVANCE,
        {
            "slots": list(group.slots),
            "seen": str(now.seen),
            "target": str(now.target) if now.target is not None else None,
            "position": now.position,
            "new_seen": str(to.seen),
            "new_target": str(to.target) if to.target is not None else None,
            "new_position": to.position,
        },
    )
    return result.rowcount == len(group.slots)
