"""Lifts rows above their own tombstones, where a delete and a new insert of one key raced.

The insert was stamped before the delete had committed its tombstone, so the row would lose against it everywhere. It
gets the tombstone's version plus one, under the mirror setting (no message: it is sent in the same pass) and therefore
behind a fence of its own: the epoch is read again under a lock that the flip conflicts with.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import structlog

from core.content import dump
from core.errors import PrimaryMovedError, StoreUnavailableError
from core.phases import PhaseState
from core.postgres.failures import translated
from core.postgres.held import key_record
from core.postgres.names import is_tombstone, partition_key_of, quoted, same_identity, table_name
from core.postgres.phases import read_phase
from core.stamp import Stamp
from outbox.current_state import publish_row
from outbox.parking import give_up_when_idle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.mapping import EntityMapping
    from core.phases import PhaseRow
    from outbox.current_state import Buried, Loaded
    from outbox.parking import ParkingPolicy

log = structlog.get_logger()


async def lift_all(engine: AsyncEngine, phase: PhaseRow, loaded: Loaded, policy: ParkingPolicy) -> int:
    """Lift every row that was loaded and stands behind its own tombstone, and have it sent; return how many.

    Raises:
        PrimaryMovedError: phase or epoch is not `phase` any more.
        StoreUnavailableError: Postgres did not answer; or a row is locked while a switch is draining. Repeat.

    """
    total = 0
    for mapping, buried in loaded.buried.items():
        with translated(f"lifting rows of {mapping.name}"):
            async with engine.begin() as connection:
                await give_up_when_idle(connection, policy)
                lifted = await lift(connection, mapping, buried, phase, loaded)
        total += lifted
        log.info("relay.lifted", entity=mapping.name, rows=lifted, locked=len(buried) - lifted)
    loaded.buried.clear()
    return total


async def lift(
    connection: AsyncConnection,
    mapping: EntityMapping[Any],
    buried: Sequence[Buried],
    phase: PhaseRow,
    loaded: Loaded,
) -> int:
    """Lift rows in the caller's transaction and add them to `loaded`; return how many.

    A row that a writer has locked is not waited for: it is put into the log once more, and comes with a later batch.

    Raises:
        PrimaryMovedError: phase or epoch is not `phase` any more; nothing was written.
        StoreUnavailableError: a row is locked while a switch is draining, which must not miss it; repeat.

    """
    await connection.exec_driver_sql(f"LOCK TABLE {table_name(mapping.table)} IN ROW EXCLUSIVE MODE")
    now = await read_phase(connection)
    if (now.phase, now.epoch) != (phase.phase, phase.epoch):
        msg = f"epoch {now.epoch} was opened while a batch of epoch {phase.epoch} was sent"
        raise PrimaryMovedError(msg)
    await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
    rows = [
        {
            **key_record(mapping, item.held.identity),
            "crossfeed_epoch": item.row.stamp.epoch,
            "crossfeed_version": item.row.stamp.version,
        }
        for item in buried
    ]
    result = await connection.exec_driver_sql(_lift(mapping), {"rows": dump(rows), "epoch": phase.epoch})
    lifted = {(partition_key, id_): Stamp(epoch, version) for partition_key, id_, epoch, version in map(tuple, result)}
    missed: list[Buried] = []
    for item in buried:
        stamp = lifted.get((item.held.identity.partition_key, item.held.identity.id))
        if stamp is None:
            missed.append(item)
        else:
            publish_row(mapping, item.held, dataclasses.replace(item.row, stamp=stamp), loaded)
    if missed and now.state is PhaseState.DRAINING:
        msg = f"{mapping.name}: a row behind its own tombstone is locked by a writer"
        raise StoreUnavailableError(msg)
    if missed:
        await connection.exec_driver_sql(
            _ANNOUNCE,
            {
                "entity": mapping.name,
                "keys": [item.held.identity.partition_key for item in missed],
                "ids": [item.held.identity.id for item in missed],
                "epochs": [item.row.stamp.epoch for item in missed],
                "versions": [item.row.stamp.version for item in missed],
            },
        )
    return len(lifted)


# Changed or locked in the meantime is all the same: what was changed has a message of its own, one more does no harm.
_ANNOUNCE = """
    INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
    SELECT crossfeed.slot_of(%(entity)s::text, m.partition_key, m.id), %(entity)s::text, m.partition_key, m.id,
        m.epoch, m.version, false
    FROM unnest(%(keys)s::text[], %(ids)s::text[], %(epochs)s::bigint[], %(versions)s::bigint[])
        AS m(partition_key, id, epoch, version)
"""


def _lift(mapping: EntityMapping[Any]) -> str:
    table = table_name(mapping.table)
    identity = ", ".join(f"t.{quoted(name)}" for name in mapping.identity_columns)
    return f"""
        WITH free AS (
            SELECT {identity}, d.version AS crossfeed_buried
            FROM jsonb_populate_recordset(NULL::{table}, %(rows)s::jsonb) AS w
            JOIN {table} t ON {same_identity(mapping, "t", "w")}
                AND t.crossfeed_epoch = w.crossfeed_epoch AND t.crossfeed_version = w.crossfeed_version
            JOIN crossfeed.tombstone d ON {is_tombstone(mapping, "d", partition_key_of(mapping, "w"), "w.id")}
                AND (d.epoch, d.version) >= (t.crossfeed_epoch, t.crossfeed_version)
            FOR NO KEY UPDATE OF t SKIP LOCKED
        )
        UPDATE {table} t SET crossfeed_epoch = %(epoch)s, crossfeed_version = free.crossfeed_buried + 1
        FROM free WHERE {same_identity(mapping, "t", "free")}
        RETURNING {partition_key_of(mapping, "t")}, t.id, t.crossfeed_epoch, t.crossfeed_version
    """
