"""Writes a syntax tree back as the text of a query."""

from __future__ import annotations

from typing import assert_never

import orjson

from core.local.cosmos.sql import nodes as n
from core.local.cosmos.values import UNDEFINED


def query_text(query: n.Query, *, where: str | None = None) -> str:
    """Return the text of a query; `where`, if given, is the whole text of its filter."""
    parts = ["SELECT"]
    if query.distinct:
        parts.append("DISTINCT")
    if query.top is not None:
        parts.append(f"TOP {expression_text(query.top)}")
    if query.value:
        parts.append("VALUE")
    parts.append(", ".join(_item(item) for item in query.items) or "*")
    if query.sources:
        parts.append("FROM " + " JOIN ".join(_source(source) for source in query.sources))
    if where is None and query.where is not None:
        where = expression_text(query.where)
    if where is not None:
        parts.append(f"WHERE {where}")
    if query.group_by:
        parts.append("GROUP BY " + ", ".join(expression_text(key) for key in query.group_by))
    if query.order_by:
        keys = (f"{expression_text(k.expression)} {'DESC' if k.descending else 'ASC'}" for k in query.order_by)
        parts.append("ORDER BY " + ", ".join(keys))
    if query.offset is not None and query.limit is not None:
        parts.append(f"OFFSET {expression_text(query.offset)} LIMIT {expression_text(query.limit)}")
    return " ".join(parts)


def _item(item: n.SelectItem) -> str:
    text = expression_text(item.expression)
    return text if item.alias is None else f"{text} AS {item.alias}"


def _source(source: n.Source) -> str:
    collection = expression_text(source.collection)
    if source.iterate:
        return f"{source.alias} IN {collection}"
    return collection if source.alias in {None, collection} else f"{collection} AS {source.alias}"


def _list(items: tuple[n.Expression, ...]) -> str:
    return ", ".join(expression_text(item) for item in items)


def expression_text(node: n.Expression) -> str:  # noqa: C901, PLR0911, PLR0912 - a dispatch
    """Return the text of an expression."""
    match node:
        case n.Literal(value):
            return "undefined" if value is UNDEFINED else orjson.dumps(value).decode()
        case n.Parameter(name) | n.Name(name):
            return name
        case n.Member(owner, index):
            return f"{expression_text(owner)}[{expression_text(index)}]"
        case n.Unary(operator, operand):
            return f"({operator} {expression_text(operand)})"
        case n.Binary("AND" | "OR" as operator):
            return f"({f' {operator} '.join(expression_text(part) for part in n.chain(node))})"
        case n.Binary(operator, left, right):
            return f"({expression_text(left)} {operator} {expression_text(right)})"
        case n.Between(value, low, high):
            return f"({expression_text(value)} BETWEEN {expression_text(low)} AND {expression_text(high)})"
        case n.In(value, choices):
            return f"({expression_text(value)} IN ({_list(choices)}))"
        case n.Like(value, pattern, escape):
            tail = "" if escape is None else f" ESCAPE {expression_text(escape)}"
            return f"({expression_text(value)} LIKE {expression_text(pattern)}{tail})"
        case n.Conditional(test, yes, no):
            return f"({expression_text(test)} ? {expression_text(yes)} : {expression_text(no)})"
        case n.Call(name, arguments):
            return f"{name}({_list(arguments)})"
        case n.ObjectLiteral(fields):
            inner = ", ".join(f"{orjson.dumps(name).decode()}: {expression_text(value)}" for name, value in fields)
            return f"{{{inner}}}"
        case n.ArrayLiteral(items):
            return f"[{_list(items)}]"
        case n.Subquery(kind, query):
            return f"{kind if kind in {'EXISTS', 'ARRAY'} else ''}({query_text(query)})"
    assert_never(node)
