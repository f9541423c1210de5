"""Takes unique values away from rows for the length of a transaction, so that they can be handed around in any pattern.

Two documents that swap a unique value cannot be written one after the other: each is refused because the other still
holds what it wants. So all of them let go of their values first. Only columns that the mirror writes again at once are
touched, and none that a foreign key refers to: it could carry the empty value on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.content import dump
from core.postgres.engine import fetch
from core.postgres.held import key_record
from core.postgres.names import quoted, records, same_identity, table_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.mapping import EntityMapping

# An index on an expression does not list the columns in it, but depends on them.
_COLUMNS = """
    SELECT a.attname::text, a.attnotnull, t.typcategory::text, t.typname::text,
        format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = %(table)s::regclass AND a.attname = ANY(%(written)s::text[]) AND a.attgenerated = ''
        AND EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND NOT i.indisprimary
                AND (i.indisunique OR i.indisexclusion)
                AND (a.attnum = ANY(i.indkey) OR EXISTS (
                    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
                        AND d.refobjsubid = a.attnum)))
        AND NOT EXISTS (
            SELECT FROM pg_constraint f
            WHERE f.contype = 'f' AND f.confrelid = a.attrelid AND a.attnum = ANY(f.confkey))
    ORDER BY a.attnum
"""


async def let_go(connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity]) -> None:
    """Empty the columns of these rows that unique indexes and exclusion constraints are about, the identity's apart.

    What cannot be emptied keeps its value. Call it with the mirror setting on, in a savepoint: the rows must be written
    anew in it, or it must be rolled back.

    Raises:
        sqlalchemy.exc.DBAPIError: a constraint of the table does not bear it.

    """
    written = [name for name in mapping.written_columns if name not in mapping.identity_columns]
    columns = await fetch(connection, _COLUMNS, {"table": table_name(mapping.table), "written": written})
    changes = [f"{quoted(name)} = {empty}" for name, *kind in columns if (empty := _empty(name, *kind)) is not None]
    if changes:
        statement = f"""
            UPDATE {table_name(mapping.table)} t SET {", ".join(changes)}
            FROM {records(mapping, "keys")} AS r WHERE {same_identity(mapping, "t", "r")}
        """
        keys = dump([key_record(mapping, identity) for identity in identities])
        await connection.exec_driver_sql(statement, {"keys": keys})


def _empty(name: str, is_not_null: bool, category: str, kind: str, declared: str) -> str | None:
    """Return the SQL of a value that collides with no other, None for a type of which none is known."""
    if not is_not_null:
        return "NULL"
    of_kind = {"uuid": "gen_random_uuid()", "jsonb": "'{}'", "int2": "-floor(random() * 32768)"}
    of_category = {
        # What looked like an address still does: constraints may ask for that.
        "S": f"left(replace(gen_random_uuid()::text, '-', ''), 12) || t.{quoted(name)}",
        "N": "-floor(random() * 2000000000)",
        "R": "'empty'",
    }
    value = of_kind.get(kind) or of_category.get(category)
    # A text can be cast to every type, and is cut to the length of a short one.
    return None if value is None else f"({value})::text::{declared}"
