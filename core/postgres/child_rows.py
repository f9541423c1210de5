"""Writes the tables of an aggregate below its root, for the repository and for the guarded write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.content import dump
from core.postgres.names import columns_of, quoted, records, table_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.children import ChildTable
    from core.mapping import EntityMapping
    from core.postgres.pipeline import Sends
    from core.projection import Row


async def clear_children(connection: Sends, mapping: EntityMapping[Any], rows: Sequence[Row]) -> None:
    """Remove the child rows of these root rows."""
    for child in mapping.children:
        statement = _clear(mapping, child, f"{records(mapping, 'rows')} AS r", "r")
        await connection.exec_driver_sql(statement, {"rows": dump(rows)})


async def put_children(connection: Sends, mapping: EntityMapping[Any], rows: Sequence[Row]) -> None:
    """Insert the child rows that stand under their table's name in these root rows."""
    for child in mapping.children:
        items = [item for row in rows for item in row[child.table.name]]
        if items:
            await connection.exec_driver_sql(_put(mapping, child), {"rows": dump(items)})


def cleared_of(mapping: EntityMapping[Any], roots: str) -> str:
    """Return the CTEs (each with its comma) that remove the child rows of the CTE `roots`, in the root's statement.

    Foreign keys are looked at when the whole statement is done, so it may delete the roots or change their keys.
    """
    return "".join(
        f"crossfeed_cleared_{number} AS ({_clear(mapping, child, roots, roots)}),"
        for number, child in enumerate(mapping.children)
    )


def _clear(mapping: EntityMapping[Any], child: ChildTable, source: str, root: str) -> str:
    pairs = zip(child.parent, mapping.identity_columns, strict=True)
    belongs = " AND ".join(f"c.{quoted(theirs)} = {root}.{quoted(ours)}" for theirs, ours in pairs)
    return f"DELETE FROM {table_name(child.table)} c USING {source} WHERE {belongs}"


def _put(mapping: EntityMapping[Any], child: ChildTable) -> str:
    projection = mapping.child_projections[child.field]
    names = list(dict.fromkeys((*child.parent, child.position, *projection.column_names)))
    table = table_name(child.table)
    return f"""
        INSERT INTO {table} ({columns_of(names)})
        SELECT {columns_of(names)} FROM jsonb_populate_recordset(NULL::{table}, %(rows)s::jsonb)
    """
