"""Decides over rows whose document is gone: buried while Cosmos DB is the primary, published again while Postgres is.

Absence alone is no delete. What must be seen before one is believed:

    1. the row, its stamp and the `_etag` that it was taken from
    2. a point read that finds nothing, in a session that has written since (`CosmosDocuments.catch_up`)
    3. a lag window later, or where the change feed itself has shown the delete, another
    4. under the locks of the guarded write, in the same epoch, the very same row: stamp and `_etag` are unchanged

Each read is made at session consistency or stronger, and one from a replica that is behind what the row was taken from
does not count (`sees_less`: alone it says nothing of rows that took nothing yet, or long ago).

Whatever creates the document again between the steps changes the row (4), or comes out of the feed after them and finds
a tombstone that makes it read by key: so it wins either way. The tombstone takes no
`_etag` for the same reason: were the reads wrong, the document, unchanged as it is, would be taken again.

A row that Cosmos DB refused to take, or that waits to be sent (also when the primary was moved before it was), never
had a document that could be gone; it is kept.
While Postgres is the primary nothing is removed: the row is stamped anew and published. What the relay still has to
send is left to the relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.envelope import Origin
from core.postgres.authority import Change
from core.postgres.dead_letters import identity_columns
from core.postgres.guarded import lock_and_check, lock_identities
from core.postgres.held import read_held
from core.postgres.mirror_parking import settle
from core.postgres.mirrored_events import forget_events
from core.postgres.mirrored_judging import STALE_READ_S
from core.postgres.mirrored_rows import bury, heal
from core.stamp import AFTER_ALL, Position, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.held import Held


@dataclass(frozen=True, slots=True)
class Missed:
    """What Postgres held before the first read: the stamp of the live row, or of the tombstone, and what it had taken.

    `noticed_at` is when that was read, by the clock of Postgres.
    """

    identity: Identity
    stamp: Stamp
    etag: str | None
    taken: Position | None
    noticed_at: datetime


@dataclass(slots=True)
class Settled:
    """What became of them, counted: `kept` has changed meanwhile, was never in Cosmos DB, or is the relay's to send."""

    removed: int = 0
    healed: int = 0
    kept: int = 0

    def add(self, other: Settled) -> None:
        """Add what another count says."""
        self.removed += other.removed
        self.healed += other.healed
        self.kept += other.kept


# The messages that a cursor is not past are older than what was noticed, or none of them is of it.
_WAITING = """
    WITH asked AS (
        SELECT * FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(noticed)s::timestamptz[])
            WITH ORDINALITY AS asked(entity, partition_key, id, noticed_at, place)
    ), behind AS MATERIALIZED (
        SELECT slot, oldest FROM crossfeed.unsent(1000) WHERE carries = 'states'
    )
    SELECT place - 1 FROM asked a
    WHERE EXISTS (SELECT FROM crossfeed.dead_letter l WHERE l.direction = 'to_cosmos' AND l.kind = 'refused'
            AND l.entity = a.entity AND md5(l.partition_key || l.id)::uuid = md5(a.partition_key || a.id)::uuid
            AND l.partition_key = a.partition_key AND l.id = a.id)
        OR EXISTS (SELECT FROM crossfeed.parked p WHERE p.event_id IS NULL AND p.entity = a.entity
            AND md5(p.partition_key || p.id)::uuid = md5(a.partition_key || a.id)::uuid
            AND p.partition_key = a.partition_key AND p.id = a.id)
        OR EXISTS (SELECT FROM behind b WHERE b.slot = crossfeed.slot_of(a.entity, a.partition_key, a.id)
            AND b.oldest <= a.noticed_at)
"""


def sees_less(lsn: int | None, taken: Position | None, now: float) -> bool:
    """Say whether a read that found nothing came from a replica behind what the row was taken from.

    Args:
        lsn: how far the replica was, None if it did not tell.
        taken: where the row's document stood in the feed.
        now: seconds since 1970. After STALE_READ_S it is no replica that lags, but a container that counts anew.

    """
    if lsn is None or taken is None or taken.lsn >= AFTER_ALL:
        return False
    return lsn < taken.lsn and now - taken.ts < STALE_READ_S


async def settle_missed(
    connection: AsyncConnection, mappings: Mappings, missed: Sequence[Missed], phase: PhaseRow, now: float
) -> Settled:
    """Remove, or publish again, the rows of documents of one container that both reads did not find.

    Args:
        connection: in a READ COMMITTED transaction that holds no lock yet; the caller commits it.
        mappings: all mappings of the process.
        missed: rows, and while Postgres is primary also tombstones, as they were before the first read.
        phase: what was read before the first read.
        now: seconds since 1970, at the second read.

    Raises:
        PrimaryMovedError: phase or epoch are others by now, or a switch keeps Postgres from being written.

    """
    settled = Settled()
    if not missed:
        return settled
    container = mappings.named(missed[0].identity.entity).container
    await lock_and_check(connection, mappings.in_container(container), phase)
    await lock_identities(connection, [one.identity for one in missed])
    waiting = await _waiting(connection, missed)
    of_type: dict[EntityMapping[Any], dict[Identity, Missed]] = {}
    for number, one in enumerate(missed):
        if number not in waiting:
            of_type.setdefault(mappings.named(one.identity.entity), {})[one.identity] = one
    for mapping, known in of_type.items():
        held = await read_held(connection, mapping, list(known))
        same = [one for one in held if _is_as_noticed(one, known[one.identity])]
        if phase.primary is Origin.COSMOS:
            gone = [one for one in same if one.live_row is not None]
            await _bury(connection, mapping, gone, phase.epoch, now)
            settled.removed += len(gone)
        else:
            for row in same:
                await heal(connection, mapping, row)
            settled.healed += len(same)
    settled.kept = len(missed) - settled.removed - settled.healed
    return settled


async def _waiting(connection: AsyncConnection, missed: Sequence[Missed]) -> set[int]:
    parameters: Mapping[str, Any] = {
        **identity_columns(one.identity for one in missed),
        "noticed": [one.noticed_at for one in missed],
    }
    return set((await connection.exec_driver_sql(_WAITING, dict(parameters))).scalars())


def _is_as_noticed(held: Held, missed: Missed) -> bool:
    current = held.live_row or held.tombstone
    return current is not None and (current.stamp, current.taken_etag) == (missed.stamp, missed.etag)


async def _bury(
    connection: AsyncConnection, mapping: EntityMapping[Any], gone: Iterable[Held], epoch: int, now: float
) -> None:
    """Remove rows, under the next stamp of the epoch; whatever the feed shows of them later is read by key first."""
    changes: list[tuple[Change, Stamp]] = []
    for held in gone:
        assert held.stamp is not None
        taken = held.taken.ts if held.taken is not None else 0
        position = Position(max(int(now), taken), AFTER_ALL)
        change = Change(held.identity, {}, "", position, deleted=True)
        changes.append((change, Stamp(epoch, held.stamp.version + 1)))
    await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
    await bury(connection, mapping, changes)
    await forget_events(connection, mapping, [change for change, _ in changes])
    await settle(connection, [change for change, _ in changes])
    await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'off', true)")
