"""Translates core.query into the SELECTs of the Postgres repository."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, assert_never

import sqlalchemy as sa

from core.postgres.names import literal, quoted, table_name
from core.query import Before, Condition, Equals, NotBefore, OneOf, Order, Query

if TYPE_CHECKING:
    from core.children import ChildTable
    from core.mapping import EntityMapping

Parameters = dict[str, Any]


def select_rows(mapping: EntityMapping[Any], query: Query) -> tuple[str, Parameters]:
    """Return the SELECT of stamps, etag, row and children that `query` asks for, in its order."""
    where, parameters = _where(mapping, query.where)
    limit = "" if query.limit is None else f"LIMIT {int(query.limit)}"
    return f"{rows_of(mapping)} WHERE {where} ORDER BY {_order(mapping, query.order_by)} {limit}", parameters


def select_count(mapping: EntityMapping[Any], query: Query) -> tuple[str, Parameters]:
    """Return the SELECT that counts what `query` asks for."""
    where, parameters = _where(mapping, query.where)
    limit = "" if query.limit is None else f"LIMIT {int(query.limit)}"
    return (
        f"SELECT count(*) FROM (SELECT FROM {table_name(mapping.table)} t WHERE {where} {limit}) AS found",
        parameters,
    )


def rows_of(mapping: EntityMapping[Any]) -> str:
    """Return `SELECT … FROM table t`: epoch, version, etag, the row and each child table's rows as JSON text."""
    return (
        f"SELECT t.crossfeed_epoch, t.crossfeed_version, t.crossfeed_etag, {row_of(mapping)}"
        f"{children_of(mapping)} FROM {table_name(mapping.table)} t"
    )


def row_of(mapping: EntityMapping[Any]) -> str:
    """Return the select item that is the mapped columns of root row `t` as JSON text, NULL where there is no row.

    Other columns of the table are none of the document's: what they hold must not refuse it.
    """
    columns = ", ".join(_as_json(mapping.table, "t", name) for name in mapping.projected_columns)
    return f"CASE WHEN t.id IS NOT NULL THEN (SELECT to_json(r)::text FROM (SELECT {columns}) AS r) END"


def _as_json(table: sa.Table, row: str, name: str) -> str:
    """Select a column the way its JSON shall be: a point in time in UTC, whatever the session's time zone is."""
    column = f"{row}.{quoted(name)}"
    declared = table.columns[name].type if name in table.columns else None
    if isinstance(declared, sa.DateTime) and declared.timezone:
        return f"{column} AT TIME ZONE 'UTC' AS {quoted(name)}"
    return column


def children_of(mapping: EntityMapping[Any]) -> str:
    """Return one select item per child table, a JSON array as text of the rows that belong to root row `t`."""
    return "".join(
        f", (SELECT coalesce(json_agg(to_json(r)), '[]')::text FROM (SELECT {_child_columns(mapping, child)}"
        f" FROM {table_name(child.table)} c WHERE {_belongs(mapping, child)}) AS r)"
        for child in mapping.children
    )


def _child_columns(mapping: EntityMapping[Any], child: ChildTable) -> str:
    names = dict.fromkeys((*mapping.child_projections[child.field].column_names, child.position))
    return ", ".join(_as_json(child.table, "c", name) for name in names)


def _belongs(mapping: EntityMapping[Any], child: ChildTable) -> str:
    pairs = zip(child.parent, mapping.identity_columns, strict=True)
    return " AND ".join(f"c.{quoted(theirs)} = t.{quoted(ours)}" for theirs, ours in pairs)


def _where(mapping: EntityMapping[Any], conditions: tuple[Condition, ...]) -> tuple[str, Parameters]:
    parameters: Parameters = {}
    parts = [_condition(mapping, condition, parameters) for condition in conditions]
    return " AND ".join(parts) or "true", parameters


def _condition(mapping: EntityMapping[Any], condition: Condition, parameters: Parameters) -> str:
    column = _column(mapping, condition.field)

    def bind(value: Any) -> str:  # noqa: ANN401 - any value of a model's field
        name = f"p{len(parameters)}"
        parameters[name] = value.value if isinstance(value, Enum) else value
        return f"%({name})s"

    match condition:
        case Equals(value=None):
            return f"{column} IS NULL"
        case Equals(value=value, ignore_case=True):
            return f"lower({column}) = lower({bind(value)}::text)"
        case Equals(value=value):
            return f"{column} = {bind(value)}"
        case OneOf(values=values):
            given = [bind(value) for value in values if value is not None]
            parts = [f"{column} IN ({', '.join(given)})"] if given else []
            parts += [f"{column} IS NULL"] if None in values else []
            return f"({' OR '.join(parts)})" if parts else "false"
        case Before(moment=moment):
            return f"{column} < {bind(moment)}"
        case NotBefore(moment=moment):
            return f"{column} >= {bind(moment)}"
        case _:
            assert_never(condition)


def _order(mapping: EntityMapping[Any], order: Order | None) -> str:
    by_id = 't.id COLLATE "C"'
    if order is None:
        return by_id
    column = _column(mapping, order.field)
    declared = mapping.table.columns.get(order.field)
    collation = ' COLLATE "C"' if declared is None or isinstance(declared.type, sa.String) else ""
    # Cosmos DB sorts null below everything.
    direction = "DESC NULLS LAST" if order.descending else "ASC NULLS FIRST"
    return f"{column}{collation} {direction}, {by_id}"


def _column(mapping: EntityMapping[Any], field: str) -> str:
    if field in mapping.table.columns:
        return f"t.{quoted(field)}"
    alias = literal(mapping.alias(field)).replace("%", "%%")  # the driver reads parameters in the whole statement
    return f"(t.{quoted(mapping.projection.body)} ->> {alias})"
