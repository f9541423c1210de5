"""Walks identities in the order of an index, a page at a time, so that a walk can be stopped anywhere and gone on with.

Whatever is written behind the place is missed: who walks must learn of it otherwise, from the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.content import dump
from core.identity import Identity
from core.postgres.names import columns_of, literal, partition_key_of, quoted, table_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping

# The unique index on exactly these columns, in its own order: any other would be sorted for every page.
_ORDER = """
    SELECT columns FROM (
        SELECT array_agg(a.attname::text ORDER BY key.place) AS columns, i.indisprimary, i.indexrelid
        FROM pg_index i, unnest(i.indkey[:i.indnkeyatts - 1]) WITH ORDINALITY AS key(attnum, place)
        JOIN pg_attribute a ON a.attnum = key.attnum AND key.attnum > 0
        WHERE i.indrelid = %(table)s::regclass AND a.attrelid = i.indrelid AND i.indisunique AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL
        GROUP BY i.indexrelid, i.indisprimary
    ) AS indexes
    WHERE columns @> %(columns)s::text[] AND columns <@ %(columns)s::text[]
    ORDER BY indisprimary DESC, indexrelid LIMIT 1
"""

# What was erased is nobody's document any more: a hash has taken the place of its key (core.migration.erase).
ERASED: Final = "crossfeed-erased:"
"""What the hash begins with."""

_TOMBSTONES = f"""
    SELECT partition_key, id, md5(partition_key || id)::uuid::text FROM crossfeed.tombstone
    WHERE entity = %(entity)s AND epoch >= %(since)s AND NOT starts_with(partition_key, '["{ERASED}')
        AND (%(after)s::uuid IS NULL OR md5(partition_key || id)::uuid > %(after)s::uuid)
    ORDER BY md5(partition_key || id)::uuid LIMIT %(limit)s
"""

_ABOUT = """
    SELECT CASE WHEN reltuples > 0 THEN reltuples::bigint ELSE (SELECT count(*) FROM {table}) END
    FROM pg_class WHERE oid = %(table)s::regclass
"""


class Page(NamedTuple):
    """Identities in the order of the walk, and the place after them; both empty at the end."""

    identities: list[Identity]
    place: Mapping[str, Any]


async def rows_after(
    connection: AsyncConnection, mapping: EntityMapping[Any], place: Mapping[str, Any] | None, limit: int
) -> Page:
    """Return the identities of the next rows of a mapped table.

    Args:
        connection: in any transaction.
        mapping: whose rows.
        place: of the page before, None to begin.
        limit: how many at most.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    table = table_name(mapping.table)
    asked = {"table": table, "columns": list(mapping.identity_columns)}
    order: Sequence[str] = (await connection.exec_driver_sql(_ORDER, asked)).scalar_one()
    found = await connection.exec_driver_sql(
        _rows(mapping, order, begins=place is None), {"after": dump(dict(place or {})), "limit": limit}
    )
    rows = [tuple(row) for row in found]
    return Page([Identity(mapping.name, key, id_) for key, id_, _ in rows], rows[-1][2] if rows else {})


async def tombstones_after(
    connection: AsyncConnection,
    mapping: EntityMapping[Any],
    place: Mapping[str, Any] | None,
    limit: int,
    since_epoch: int = 0,
) -> Page:
    """Return the identities of the next tombstones of an entity type and of an epoch; otherwise as `rows_after`."""
    asked = {"entity": mapping.name, "after": (place or {}).get("digest"), "limit": limit, "since": since_epoch}
    rows = [tuple(row) for row in await connection.exec_driver_sql(_TOMBSTONES, asked)]
    place = {"digest": rows[-1][2]} if rows else {}
    return Page([Identity(mapping.name, key, id_) for key, id_, _ in rows], place)


async def about(connection: AsyncConnection, mapping: EntityMapping[Any]) -> int:
    """Return about how many rows there are: counted only where Postgres has no statistics yet."""
    table = table_name(mapping.table)
    number: int = (await connection.exec_driver_sql(_ABOUT.format(table=table), {"table": table})).scalar_one()
    return number


def _rows(mapping: EntityMapping[Any], order: Sequence[str], *, begins: bool) -> str:
    """Return the statement; the place is turned into the columns' own types, each by itself, so that the index is used.

    A number, a date or a text comes back from JSON as what it was.
    """
    place = ", ".join(f"{literal(name)}, t.{quoted(name)}" for name in order)
    after = ", ".join(f"(SELECT w.{quoted(name)} FROM after w)" for name in order)
    where = "" if begins else f"WHERE ({columns_of(order, 't')}) > ({after})"
    return f"""
        WITH after AS MATERIALIZED (
            SELECT * FROM jsonb_populate_record(NULL::{table_name(mapping.table)}, %(after)s::jsonb)
        )
        SELECT {partition_key_of(mapping, "t")}, t.id::text, jsonb_build_object({place})
        FROM {table_name(mapping.table)} t {where} ORDER BY {columns_of(order, "t")} LIMIT %(limit)s
    """
