"""Spells a mapping's table, columns and identity in SQL."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.mapping import EntityMapping

_preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]

STAMP_COLUMNS = ("crossfeed_epoch", "crossfeed_version")
TAKEN_COLUMNS = ("crossfeed_etag", "crossfeed_ts", "crossfeed_lsn")
KEY_DIGEST = "(md5(partition_key || id)::uuid)"
"""What stands in indexes for a key of up to 3 kB; a JSON array says itself where it ends."""
RESERVED_NAME_PREFIX = "crossfeed:"
ROOT_WRITTEN = "crossfeed.root_written"
"""The transaction-local setting that names the root whose repository is writing its child tables."""


def quoted(name: str) -> str:
    """Quote an identifier where it needs it."""
    return str(_preparer.quote(name))


def table_name(table: sa.Table) -> str:
    """Return the table's name, with its schema, quoted where needed."""
    return str(_preparer.format_table(table))


def columns_of(names: Iterable[str], row: str | None = None) -> str:
    """Return a list of columns, of the table named `row` if given."""
    return ", ".join(quoted(name) if row is None else f"{row}.{quoted(name)}" for name in names)


def records(mapping: EntityMapping[Any], parameter: str) -> str:
    """Return the SQL that makes rows of the mapped table of the JSON array in a statement's parameter."""
    return f"jsonb_populate_recordset(NULL::{table_name(mapping.table)}, %({parameter})s::jsonb)"


def literal(text: str) -> str:
    """Quote a string constant, whatever standard_conforming_strings says."""
    quoted_once = "'" + text.replace("'", "''") + "'"
    return quoted_once if "\\" not in text else " E" + quoted_once.replace("\\", "\\\\")


def dollar_quoted(text: str) -> str:
    """Quote a text as it stands, between tags that it does not hold: the body of a function, say."""
    tags = (f"$q{number}$" for number in count())
    tag = next(tag for tag in tags if (text + tag).index(tag) == len(text))
    return f"{tag}{text}{tag}"


def text_array(texts: Iterable[str]) -> str:
    """Spell a parameter that is cast to text[]; the driver takes ten times as long for a list of a thousand."""
    return "{" + ",".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts) + "}"


def number_array(numbers: Iterable[int]) -> str:
    """Spell a parameter that is cast to bigint[], as `text_array` does."""
    return "{" + ",".join(map(str, numbers)) + "}"


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


def is_tombstone(mapping: EntityMapping[Any], tombstone: str, partition_key: str, id_: str) -> str:
    """Return the SQL condition that `tombstone` is that of this key: found by the index, compared in full."""
    return (
        f"{tombstone}.entity = {literal(mapping.name)}"
        f" AND md5({tombstone}.partition_key || {tombstone}.id)::uuid = md5({partition_key} || {id_})::uuid"
        f" AND {tombstone}.partition_key = {partition_key} AND {tombstone}.id = {id_}"
    )


def root_text(mapping: EntityMapping[Any], row: str) -> str:
    """Return the SQL that names the root `row` in the setting ROOT_WRITTEN."""
    return f"jsonb_build_array({literal(mapping.name)}, {columns_of(mapping.identity_columns, row)})::text"


def name_problems(mapping: EntityMapping[Any]) -> list[str]:
    """Return what is wrong with the mapping's names.

    A percent sign is a placeholder to the driver; `crossfeed:` begins the names of what is in the log and no document.
    """
    tables = (mapping.table, *(child.table for child in mapping.children))
    names = [mapping.name, *(name for table in tables for name in (table.fullname, *table.columns.keys()))]
    problems = [f"the name {name!r} holds a percent sign, which cannot be used" for name in names if "%" in name]
    if mapping.name.startswith(RESERVED_NAME_PREFIX):
        problems.append(f"names that start with {RESERVED_NAME_PREFIX!r} are reserved")
    return problems
