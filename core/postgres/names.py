"""Spells a mapping's table, columns and identity in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from core.mapping import EntityMapping

_preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]

STAMP_COLUMNS = ("crossfeed_epoch", "crossfeed_version")
TAKEN_COLUMNS = ("crossfeed_etag", "crossfeed_ts", "crossfeed_lsn")


def quoted(name: str) -> str:
    """Quote an identifier where it needs it."""
    return str(_preparer.quote(name))


def table_name(table: sa.Table) -> str:
    """Return the table's name, with its schema, quoted where needed."""
    return str(_preparer.format_table(table))


def literal(text: str) -> str:
    """Quote a string constant (with standard_conforming_strings, as all supported versions have it)."""
    return "'" + text.replace("'", "''") + "'"


def partition_key_of(mapping: EntityMapping[Any], row: str) -> str:
    """Return the SQL that spells the partition key of `row` as core.identity.key_text does."""
    parts = []
    for name in mapping.key_columns:
        column = f"{row}.{quoted(name)}"
        if isinstance(mapping.table.columns[name].type, sa.String):
            # A text column needs no detour over jsonb; the spelling is the same.
            parts.append(f"coalesce(to_json({column}::text)::text, 'null')")
        else:
            parts.append(f"crossfeed.key_part(to_jsonb({column}))")
    return "'[' || " + " || ',' || ".join(parts) + " || ']'"


def same_identity(mapping: EntityMapping[Any], one: str, other: str) -> str:
    """Return the SQL condition that two rows of a mapped table have one identity."""
    return " AND ".join(f"{one}.{quoted(name)} = {other}.{quoted(name)}" for name in mapping.identity_columns)
