"""The statements of the guarded write: one per entity type, the batch as one JSON parameter."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from core.content import content_of, dump
from core.postgres.child_rows import clear_children, cleared_of, put_children
from core.postgres.held import Held, key_record
from core.postgres.names import (
    KEY_DIGEST,
    STAMP_COLUMNS,
    TAKEN_COLUMNS,
    columns_of,
    is_tombstone,
    literal,
    partition_key_of,
    quoted,
    records,
    same_identity,
    table_name,
)
from core.quick_row import row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping
    from core.postgres.authority import Change
    from core.postgres.pipeline import Sends
    from core.stamp import Stamp

    Stamped = Sequence[tuple[Change, Stamp]]

_PARTS: Final = 4
_PART: Final = 50
"""A batch is written in so many parts at most, and in parts of at least so many documents."""


async def put(connection: Sends, mapping: EntityMapping[Any], changes: Stamped) -> None:
    """Insert or update the rows of documents, each under its stamp; never over a row that is as new.

    Args:
        connection: in the mirror's transaction.
        mapping: of the documents.
        changes: of which every content passed `check_values`, and no two are of one identity.

    Raises:
        DocumentRefusedError: a document does not fit its model.

    """
    if not changes:
        return
    statement = put_statement(mapping)
    for some in _in_parts(changes):
        rows = [
            {**row_of(mapping, content_of(change.document)), **_taken(change), **_stamp(stamp)}
            for change, stamp in some
        ]
        await connection.exec_driver_sql(statement, {"rows": dump(rows)})
        await clear_children(connection, mapping, rows)
        await put_children(connection, mapping, rows)


def _in_parts(changes: Stamped) -> Iterator[Stamped]:
    """Cut a batch so that Postgres writes one part of it while the rows of the next are made."""
    size = max(_PART, math.ceil(len(changes) / _PARTS))
    return (changes[first : first + size] for first in range(0, len(changes), size))


async def bury(connection: Sends, mapping: EntityMapping[Any], changes: Stamped) -> None:
    """Remove the rows of deleted documents (of this very identity only) and write their tombstones."""
    if not changes:
        return
    keys = [{**key_record(mapping, change.identity), **_taken(change), **_stamp(stamp)} for change, stamp in changes]
    await connection.exec_driver_sql(_bury(mapping), {"rows": dump(keys)})


async def take(connection: Sends, mapping: EntityMapping[Any], changes: Sequence[Change]) -> None:
    """Remember etag and position of documents whose very state is held."""
    if not changes:
        return
    keys = [{**key_record(mapping, change.identity), **_taken(change)} for change in changes]
    await connection.exec_driver_sql(_take_rows(mapping), {"rows": dump(keys)})
    await connection.exec_driver_sql(_take_tombstones(mapping), {"rows": dump(keys)})


async def heal(connection: AsyncConnection, mapping: EntityMapping[Any], held: Held) -> None:
    """Publish what Postgres holds once more: restamp the row, or write the tombstone where there is none."""
    keys = {"keys": dump([key_record(mapping, held.identity)])}
    if held.row is not None:
        # Not under the mirror setting: the triggers stamp and capture it.
        await connection.exec_driver_sql(_restamp(mapping), keys)
    else:
        await connection.exec_driver_sql(_bury_absent(mapping), keys)


def _stamp(stamp: Stamp) -> dict[str, Any]:
    return dict(zip(STAMP_COLUMNS, stamp, strict=True))


def _taken(change: Change) -> dict[str, Any]:
    return dict(zip(TAKEN_COLUMNS, (change.etag, *change.position), strict=True))


@lru_cache(maxsize=256)
def put_statement(mapping: EntityMapping[Any]) -> str:
    """Return the statement that writes rows, a JSON array in its parameter `rows`, where they are newer."""
    names = [*mapping.written_columns, *STAMP_COLUMNS, *TAKEN_COLUMNS]
    changes = ", ".join(
        f"{quoted(name)} = excluded.{quoted(name)}" for name in names if name not in mapping.identity_columns
    )
    return f"""
        INSERT INTO {table_name(mapping.table)} AS t ({columns_of(names)})
        SELECT {columns_of(names)} FROM {records(mapping, "rows")}
        ON CONFLICT ({columns_of(mapping.identity_columns)}) DO UPDATE SET {changes}
        WHERE (excluded.crossfeed_epoch, excluded.crossfeed_version) > (t.crossfeed_epoch, t.crossfeed_version)
    """


def _bury(mapping: EntityMapping[Any]) -> str:
    return f"""
        WITH gone AS (SELECT * FROM {records(mapping, "rows")}),
        doomed AS MATERIALIZED (
            SELECT {columns_of(mapping.identity_columns, "t")} FROM {table_name(mapping.table)} t
            JOIN gone r ON {same_identity(mapping, "t", "r")}
                AND (t.crossfeed_epoch, t.crossfeed_version) < (r.crossfeed_epoch, r.crossfeed_version)
            FOR UPDATE OF t
        ),
        {cleared_of(mapping, "doomed")}
        removed AS (
            DELETE FROM {table_name(mapping.table)} t USING doomed WHERE {same_identity(mapping, "t", "doomed")}
        )
        INSERT INTO crossfeed.tombstone AS d (entity, partition_key, id, epoch, version, etag, ts, lsn)
        SELECT {literal(mapping.name)}, {partition_key_of(mapping, "r")}, r.id, r.crossfeed_epoch, r.crossfeed_version,
            r.crossfeed_etag, r.crossfeed_ts, r.crossfeed_lsn FROM gone r
        ON CONFLICT (entity, {KEY_DIGEST}) DO UPDATE SET epoch = excluded.epoch, version = excluded.version,
            etag = excluded.etag, ts = excluded.ts, lsn = excluded.lsn, at = clock_timestamp()
        WHERE (excluded.epoch, excluded.version) > (d.epoch, d.version)
    """


def _take_rows(mapping: EntityMapping[Any]) -> str:
    return f"""
        UPDATE {table_name(mapping.table)} t SET crossfeed_etag = r.crossfeed_etag, crossfeed_ts = r.crossfeed_ts,
            crossfeed_lsn = r.crossfeed_lsn
        FROM {records(mapping, "rows")} AS r WHERE {same_identity(mapping, "t", "r")}
    """


def _take_tombstones(mapping: EntityMapping[Any]) -> str:
    return f"""
        UPDATE crossfeed.tombstone d SET etag = r.crossfeed_etag, ts = r.crossfeed_ts, lsn = r.crossfeed_lsn
        FROM {records(mapping, "rows")} AS r
        WHERE {is_tombstone(mapping, "d", partition_key_of(mapping, "r"), "r.id")}
            AND NOT EXISTS (SELECT FROM {table_name(mapping.table)} t WHERE {same_identity(mapping, "t", "r")})
    """


def _restamp(mapping: EntityMapping[Any]) -> str:
    return f"""
        UPDATE {table_name(mapping.table)} t SET crossfeed_version = t.crossfeed_version
        FROM {records(mapping, "keys")} AS r WHERE {same_identity(mapping, "t", "r")}
    """


def _bury_absent(mapping: EntityMapping[Any]) -> str:
    return f"""
        WITH buried AS (
            INSERT INTO crossfeed.tombstone AS d (entity, partition_key, id, epoch, version)
            SELECT {literal(mapping.name)}, {partition_key_of(mapping, "r")}, r.id, p.epoch, 1
            FROM {records(mapping, "keys")} AS r, crossfeed.phase p
            ON CONFLICT (entity, {KEY_DIGEST}) DO UPDATE SET epoch = excluded.epoch, version = d.version + 1,
                at = clock_timestamp()
            RETURNING entity, partition_key, id, epoch, version
        )
        INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted)
        SELECT crossfeed.slot_of(entity, partition_key, id), entity, partition_key, id, epoch, version, true FROM buried
    """
