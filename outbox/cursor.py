"""Remembers per slot which part of the log has been delivered.

A cursor is a snapshot, not a number: everything visible in `seen` has been delivered. A long or late transaction holds
nothing back and is not skipped, because it is told by its id, however old its messages are. A delta that does not fit
one page is fixed by a second snapshot, `target`, and paged by `position`, the sequence number delivered last.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from core.errors import TransientError
from outbox.snapshot import Snapshot

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class ServerChangedError(TransientError):
    """A cursor was read on another run of the server, where its transaction ids may be those of other transactions."""


class Carries(StrEnum):
    """What the messages of a slot are: references to documents' states, or domain events by value."""

    STATES = "states"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Cursor:
    """Delivered is what `seen` shows, and of what `target` shows beyond it all up to the sequence number `position`."""

    seen: Snapshot
    target: Snapshot | None = None
    position: int = 0

    @classmethod
    def parse(cls, seen: str, target: str | None, position: int) -> Cursor:
        """Read the columns of crossfeed.slot, the snapshots as texts."""
        return cls(Snapshot.parse(seen), Snapshot.parse(target) if target is not None else None, position)


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """Slots of one kind that stand at the very same cursor: one statement reads them all.

    `tokens` are those of the slots, in their order; `server` names the life of the server on which the cursor was read
    (crossfeed.server): snapshots of another one may mean something else.
    """

    slots: tuple[int, ...]
    cursor: Cursor
    carries: Carries = Carries.STATES
    tokens: tuple[int, ...] = ()
    server: str | None = None


SERVER = "(SELECT crossfeed.server())"
"""Tells one life of a server from every other, which a restart or a crash ends, and from the server that a failover or
a restore puts in its place."""

_LOAD = f"""
    SELECT array_agg(slot ORDER BY slot), seen::text AS seen, target::text AS target, position, carries,
        array_agg(token ORDER BY slot), {SERVER}
    FROM crossfeed.slot GROUP BY 2, 3, 4, 5 ORDER BY 1
"""

# Whoever has lost a slot has lost its token, so a relay that slept never moves what another has moved meanwhile. Locked
# first, so that it is all of the slots or none; one statement, so that who is stopped in the middle leaves no lock.
_ADVANCE = f"""
    WITH mine AS MATERIALIZED (
        SELECT s.slot FROM crossfeed.slot s
        JOIN unnest(%(slots)s::smallint[], %(tokens)s::bigint[]) AS held(slot, token) USING (slot, token)
        WHERE %(server)s::text IS NULL OR {SERVER} = %(server)s::text
        ORDER BY s.slot FOR NO KEY UPDATE OF s
    )
    UPDATE crossfeed.slot s
    SET seen = %(seen)s::pg_snapshot, target = %(target)s::pg_snapshot, position = %(position)s, at = clock_timestamp()
    FROM mine WHERE s.slot = mine.slot AND (SELECT count(*) FROM mine) = cardinality(%(slots)s::smallint[])
"""


async def load_groups(connection: AsyncConnection) -> list[SlotGroup]:
    """Return the cursors of all slots of both kinds, equal ones together, with the tokens that are current."""
    result = await connection.exec_driver_sql(_LOAD)
    return [
        SlotGroup(tuple(slots), Cursor.parse(seen, target, position), Carries(carries), tuple(tokens), server)
        for slots, seen, target, position, carries, tokens, server in map(tuple, result)
    ]


async def advance(connection: AsyncConnection, group: SlotGroup, to: Cursor) -> bool:
    """Move the cursor of a group's slots, all or none, if all their tokens are still the current ones.

    Returns:
        False: the group lost a slot, or this is not the server any more on which its cursor was read.

    """
    result = await connection.exec_driver_sql(
        _ADVANCE,
        {
            "slots": list(group.slots),
            "tokens": list(group.tokens),
            "server": group.server,
            "seen": str(to.seen),
            "target": str(to.target) if to.target is not None else None,
            "position": to.position,
        },
    )
    return result.rowcount == len(group.slots)
