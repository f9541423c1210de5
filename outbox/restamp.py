"""Stamps every row and tombstone anew, in small transactions, so that the relay publishes them all again.

A row gets its stamp from the triggers, like a write of the application's, and a message with it. What is done is told
by its epoch, so this may be stopped at any instruction and begun again. A table is walked by its blocks: that needs no
index, and whatever moves meanwhile is found by the next walk. Rows that a writer holds are left to that writer, whose
write stamps them too; should it be rolled back, the next walk finds them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.postgres.failures import translated
from core.postgres.names import table_name
from core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings

BLOCKS: Final = 128
"""How many blocks of a table (of 8 kB) one transaction walks."""

_AGAIN_S = 0.2

_CHUNK = """
    SELECT ctid FROM {table} WHERE ctid >= %(first)s::tid AND ctid < %(beyond)s::tid AND {is_old}
    FOR NO KEY UPDATE SKIP LOCKED
"""

_ROWS = """
    UPDATE {table} t SET crossfeed_version = t.crossfeed_version FROM ({chunk}) AS chunk WHERE t.ctid = chunk.ctid
"""

_TOMBSTONES = """
    WITH stamped AS (
        UPDATE {table} t SET epoch = %(epoch)s, version = t.version + 1, at = clock_timestamp()
        FROM ({chunk}) AS chunk WHERE t.ctid = chunk.ctid
        RETURNING t.entity, t.partition_key, t.id, t.version
    )
    INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
    SELECT crossfeed.slot_of(entity, partition_key, id), entity, partition_key, id, %(epoch)s, version, true
    FROM stamped
"""

_BLOCKS_OF = "SELECT pg_relation_size(%(table)s::regclass) / current_setting('block_size')::bigint"


@dataclass(frozen=True, slots=True)
class _Walk:
    """One table and what is done to it, statement by statement."""

    step: str
    table: str
    statement: str
    is_old: str


async def restamp(
    engine: AsyncEngine, mappings: Mappings, epoch: int, report: Callable[[Progress], None], blocks: int = BLOCKS
) -> int:
    """Stamp whatever is of an epoch before `epoch`; return how many rows and tombstones were.

    Rows come first: a tombstone that stands before its row must not overtake it.

    Args:
        engine: the database, Postgres being the primary in `epoch` or a later one.
        mappings: of everything that is captured.
        epoch: the epoch that is open.
        report: told after every transaction.
        blocks: how many blocks of a table one transaction walks.

    Raises:
        TransientError: Postgres did not answer; go on.
        PrimaryMovedError: Postgres is not the primary any more.

    """
    done = 0
    parameters = {"epoch": epoch, "entities": [mapping.name for mapping in mappings]}
    for walk in _walks(mappings):
        while True:
            done += await _once(engine, walk, parameters, report, blocks)
            with translated(f"looking for {walk.step}"):
                async with engine.connect() as connection:
                    left = f"SELECT EXISTS (SELECT FROM {walk.table} WHERE {walk.is_old})"
                    if not (await connection.exec_driver_sql(left, parameters)).scalar_one():
                        break
            await asyncio.sleep(_AGAIN_S)
    return done


def _walks(mappings: Mappings) -> list[_Walk]:
    rows = [
        _Walk(f"rows of {mapping.name}", table_name(mapping.table), _ROWS, "crossfeed_epoch < %(epoch)s")
        for mapping in mappings
    ]
    is_old = "epoch < %(epoch)s AND entity = ANY(%(entities)s)"
    return [*rows, _Walk("tombstones", "crossfeed.tombstone", _TOMBSTONES, is_old)]


async def _once(
    engine: AsyncEngine, walk: _Walk, parameters: dict[str, Any], report: Callable[[Progress], None], blocks: int
) -> int:
    chunk = _CHUNK.format(table=walk.table, is_old=walk.is_old)
    statement = walk.statement.format(table=walk.table, chunk=chunk)
    done = first = 0
    with translated(f"stamping {walk.step}"):
        async with engine.connect() as connection:
            total: int = (await connection.exec_driver_sql(_BLOCKS_OF, {"table": walk.table})).scalar_one()
        while first < total:
            window = {"first": f"({first},0)", "beyond": f"({first + blocks},0)"}
            async with engine.begin() as connection:
                done += (await connection.exec_driver_sql(statement, {**parameters, **window})).rowcount
            first += blocks
            report(Progress(walk.step, min(first, total), total))
    return done
