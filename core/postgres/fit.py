"""Compares mappings with the tables that are really there, so that a process refuses at start what would fail later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import JSON, JSONB

from core.errors import MappingError
from core.postgres.names import STAMP_COLUMNS, TAKEN_COLUMNS, name_problems, table_name
from core.projection import EXTRA_COLUMN, SPELLING_COLUMN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping

log = structlog.get_logger()

# A row type is named like its table, unless a built-in type has the name: then NULL::path is no row.
_TABLE = """
    SELECT to_regclass(%(table)s)::oid, to_regtype(%(table)s)::oid IS NOT DISTINCT FROM
        (SELECT reltype FROM pg_class WHERE oid = to_regclass(%(table)s))
"""

# A domain counts as its base type. pg_type.typcategory is what Postgres itself calls the kind of a type.
_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), coalesce(b.typname, t.typname),
        coalesce(b.typcategory, t.typcategory)::text,
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '',
        a.attidentity = 'a' OR a.attgenerated <> ''
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype
    WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped
"""

# What ON CONFLICT accepts as arbiter: unique, immediate, whole, plain columns.
_UNIQUE = """
    SELECT array_agg(a.attname::text)
    FROM pg_index i, unnest(i.indkey[:i.indnkeyatts - 1]) AS key
    JOIN pg_attribute a ON a.attnum = key AND key > 0
    WHERE i.indrelid = %(oid)s::oid AND a.attrelid = i.indrelid AND i.indisunique AND i.indimmediate AND i.indisvalid
        AND i.indpred IS NULL AND i.indexprs IS NULL
    GROUP BY i.indexrelid
"""

# No comparison finds a NULL: such a row would never be sent, and be inserted again by every document.
_NULLABLE = """
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = %(oid)s::oid AND attname = ANY (%(names)s::text[]) AND NOT attnotnull ORDER BY 1
"""

_CAPTURED = "SELECT relation::oid, identity FROM crossfeed.captured WHERE entity = %(entity)s"

_TRIGGERS = """
    SELECT count(*) FROM pg_trigger WHERE tgrelid = %(oid)s::oid AND tgname IN (
        'crossfeed_stamp_insert', 'crossfeed_stamp_update', 'crossfeed_capture_insert', 'crossfeed_capture_update',
        'crossfeed_capture_delete', 'crossfeed_lift_update', 'crossfeed_refuse', 'crossfeed_refuse_truncate')
"""
_TRIGGER_COUNT = 8

_MISFITS = "SELECT crossfeed.misfits(%(entity)s)"

# Users' triggers run for what the mirror writes, too. What they then write elsewhere is not captured.
_BLIND_TRIGGERS = """
    SELECT g.tgname, g.tgrelid::regclass::text FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
    JOIN crossfeed.captured c ON g.tgrelid = ANY (c.children || c.relation)
    WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND NOT starts_with(g.tgname, 'crossfeed_')
        AND strpos(p.prosrc || pg_get_triggerdef(g.oid), 'crossfeed.mirroring') = 0
    ORDER BY 2, 1
"""

# SQLAlchemy's types, subclasses first, with the type names or the categories (one capital letter) that hold them.
_KINDS: tuple[tuple[tuple[type[sa.types.TypeEngine[Any]], ...], frozenset[str]], ...] = (
    ((JSONB, JSON, sa.JSON), frozenset({"jsonb", "json"})),
    ((sa.Uuid,), frozenset({"uuid"})),
    ((sa.Enum,), frozenset({"E", "S"})),
    ((sa.String,), frozenset({"S"})),
    ((sa.Boolean,), frozenset({"B"})),
    ((sa.Integer,), frozenset({"int2", "int4", "int8", "numeric"})),
    ((sa.Numeric,), frozenset({"N"})),
    ((sa.DateTime,), frozenset({"timestamptz", "timestamp"})),
    ((sa.Date,), frozenset({"date"})),
    ((sa.ARRAY,), frozenset({"A"})),
)


@dataclass(frozen=True, slots=True)
class _Column:
    spelled: str
    type_name: str
    category: str
    must_be_given: bool
    cannot_be_given: bool


async def check_fit(connection: AsyncConnection, mappings: Iterable[EntityMapping[Any]]) -> None:
    """Compare mappings with the database.

    Triggers of users that do not ask whether the mirror writes (`current_setting('crossfeed.mirroring', true)`) are
    logged: what they write to other mapped tables then is captured by nobody.

    Raises:
        MappingError: something does not fit; the message names everything that does not, and the cure.

    """
    problems = [problem for mapping in mappings for problem in await _problems(connection, mapping)]
    if problems:
        raise MappingError("; ".join(problems))
    for trigger, table in await blind_triggers(connection):
        log.warning("fit.trigger_runs_in_mirror", trigger=trigger, table=table)


async def blind_triggers(connection: AsyncConnection) -> list[tuple[str, str]]:
    """Return triggers of users, and their tables, that do not ask whether the mirror writes.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    return [(trigger, table) for trigger, table in map(tuple, await connection.exec_driver_sql(_BLIND_TRIGGERS))]


async def _problems(connection: AsyncConnection, mapping: EntityMapping[Any]) -> list[str]:
    table = table_name(mapping.table)
    oid, is_its_type = await _table(connection, table)
    if oid is None:
        return [f"mapping {mapping.name}: there is no table {table}"]
    where = f"mapping {mapping.name}, table {table}"
    columns = await _columns(connection, oid)
    ours = {*STAMP_COLUMNS, *TAKEN_COLUMNS, SPELLING_COLUMN}
    problems = [*name_problems(mapping), *_type_problems(is_its_type)]
    problems += _column_problems(mapping.table, columns, set(mapping.written_columns), ours)
    unique = [set(names) for (names,) in await connection.exec_driver_sql(_UNIQUE, {"oid": oid})]
    if set(mapping.identity_columns) not in unique:
        problems.append(
            f"no primary key or unique constraint on exactly ({', '.join(mapping.identity_columns)}),"
            " which is the document's identity: add one"
        )
    asked = {"oid": oid, "names": list(mapping.identity_columns)}
    for (name,) in await connection.exec_driver_sql(_NULLABLE, asked):
        problems.append(f"column {name} is part of the document's identity and may be NULL: make it NOT NULL")
    if missing := sorted((ours | {mapping.projection.body} & {EXTRA_COLUMN}) - columns.keys()):
        problems.append(f"no columns {', '.join(missing)}: {_install(mapping)}")
    else:
        problems += await _capture_problems(connection, mapping, oid)
    problems += (await connection.exec_driver_sql(_MISFITS, {"entity": mapping.name})).scalars()
    for child in mapping.children:
        problems += await _child_problems(connection, mapping, child.field)
    return [f"{where}: {problem}" for problem in problems]


async def _table(connection: AsyncConnection, table: str) -> tuple[int | None, bool]:
    found: tuple[Any, ...] = tuple((await connection.exec_driver_sql(_TABLE, {"table": table})).one())
    return found[0], found[1]


async def _columns(connection: AsyncConnection, oid: int) -> dict[str, _Column]:
    found = await connection.exec_driver_sql(_COLUMNS, {"oid": oid})
    columns: list[tuple[Any, ...]] = [tuple(row) for row in found]
    return {name: _Column(*facts) for name, *facts in columns}


def _column_problems(table: sa.Table, columns: dict[str, _Column], written: set[str], ours: set[str]) -> list[str]:
    problems: list[str] = []
    ours = ours | {EXTRA_COLUMN}
    if missing := sorted(name for name in written - ours if name not in columns):
        problems.append(f"no column {', '.join(missing)}")
    for name in sorted((written - ours) & columns.keys()):
        found, declared = columns[name], table.columns[name].type
        if not _is_kind(declared, found):
            problems.append(f"column {name} is {found.spelled}, the mapping says {declared!r}")
    problems += [
        f"column {name} is generated always, but the mapping writes it"
        for name, column in sorted(columns.items())
        if column.cannot_be_given and name in written
    ]
    problems += [
        f"column {name} must be given (NOT NULL without a default), but no field of the model fills it"
        for name, column in sorted(columns.items())
        if column.must_be_given and name not in written
    ]
    return problems


async def _capture_problems(connection: AsyncConnection, mapping: EntityMapping[Any], oid: int) -> list[str]:
    captured: tuple[Any, ...] = tuple(
        (await connection.exec_driver_sql(_CAPTURED, {"entity": mapping.name})).one_or_none() or ()
    )
    triggers = (await connection.exec_driver_sql(_TRIGGERS, {"oid": oid})).scalar_one()
    if not captured or captured[0] != oid or triggers < _TRIGGER_COUNT:
        return [f"its writes are not captured: {_install(mapping)}"]
    if list(captured[1]) != list(mapping.identity_columns):
        return [f"capture was installed for the key ({', '.join(captured[1])}): {_install(mapping)}"]
    return []


async def _child_problems(connection: AsyncConnection, mapping: EntityMapping[Any], field: str) -> list[str]:
    child = next(child for child in mapping.children if child.field == field)
    table = table_name(child.table)
    oid, is_its_type = await _table(connection, table)
    if oid is None:
        return [f"there is no table {table} for the items of {field}"]
    columns = await _columns(connection, oid)
    written = {*mapping.child_projections[field].column_names, *child.parent, child.position}
    problems = _type_problems(is_its_type)
    problems += _column_problems(child.table, columns, written, {SPELLING_COLUMN})
    if missing := sorted({EXTRA_COLUMN, SPELLING_COLUMN} - columns.keys()):
        problems.append(f"no columns {', '.join(missing)}: {_install(mapping)}")
    return [f"table {table} of {field}: {problem}" for problem in problems]


def _type_problems(is_its_type: bool) -> list[str]:
    return [] if is_its_type else ["it has the name of another type: rename it, or name its schema in the mapping"]


def _install(mapping: EntityMapping[Any]) -> str:
    return f"call core.postgres.capture.install(op, <the mapping {mapping.name}>) in a migration of yours"


def _is_kind(declared: sa.types.TypeEngine[Any], found: _Column) -> bool:
    """Whether a column carries the kind of value that the mapping thinks it does; sizes are the user's business."""
    for kinds, allowed in _KINDS:
        if isinstance(declared, kinds):
            return found.type_name in allowed or found.category in allowed
    return True
