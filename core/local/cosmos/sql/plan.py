"""Tells the client how to combine the results of several physical partitions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.program import sorts_what_it_selects
from core.local.cosmos.sql.unparse import expression_text, query_text
from core.local.cosmos.state.epk import MAX_EPK, MIN_EPK

if TYPE_CHECKING:
    from core.local.cosmos.sql.program import Program

_OPERATORS: Final = {"COUNT": "Count", "COUNTIF": "CountIf", "SUM": "Sum", "MIN": "Min", "MAX": "Max", "AVG": "Average"}
# The client puts its resume condition here.
_FILTER: Final = "{documentdb-formattableorderbyquery-filter}"


def query_plan(program: Program, environment: dict[str, Any], epk: str | None) -> dict[str, Any]:
    """Return the query plan in the form of the wire protocol; `epk` is the only partition key asked for, if it is one.

    Raises:
        CosmosError: 400 for a query that the client could not combine.
    """
    query = program.query
    _check_features(program)
    window = program.window(environment)
    order_by = () if program.aggregates else query.order_by
    info: dict[str, Any] = {
        "distinctType": _distinct_type(query),
        "top": window.top,
        "offset": window.offset,
        "limit": window.limit,
        "orderBy": ["Descending" if key.descending else "Ascending" for key in order_by],
        "orderByExpressions": [expression_text(key.expression) for key in order_by],
        "groupByExpressions": [],
        "groupByAliases": [],
        "aggregates": [_OPERATORS[name] for name, _ in program.aggregates],
        "groupByAliasToAggregateType": {},
        "rewrittenQuery": _rewritten(query, program, window.offset, window.limit),
        "hasSelectValue": query.value,
        "dCountInfo": None,
        "hasNonStreamingOrderBy": False,
    }
    keys = {"min": MIN_EPK, "max": MAX_EPK, "isMinInclusive": True, "isMaxInclusive": False}
    if epk is not None:
        keys = {"min": epk, "max": epk, "isMinInclusive": True, "isMaxInclusive": True}
    return {"partitionedQueryExecutionInfoVersion": 2, "queryInfo": info, "queryRanges": [keys]}


def _check_features(program: Program) -> None:
    """Refuse what the clients that ask for this plan cannot combine: the answer would be wrong."""
    query = program.query
    missing = [
        name
        for name, asked in (
            ("GroupBy", bool(query.group_by)),
            ("MultipleAggregates", len(program.aggregates) > 1),
            ("NonValueAggregate", bool(program.aggregates) and not query.value),
            ("DCount", program.reads_whole),
        )
        if asked
    ]
    if missing:
        message = (
            "Query contains 1 or more unsupported features. Upgrade your SDK to a version that does support the "
            f"requested features: Query contained {', '.join(missing)}, which the calling client does not support."
        )
        raise bad_request(message)


def _distinct_type(query: n.Query) -> str:
    if not query.distinct:
        return "None"
    return "Ordered" if sorts_what_it_selects(query) else "Unordered"


def _rewritten(query: n.Query, program: Program, offset: int | None, limit: int | None) -> str:
    """Return what to ask each partition, empty where it is the query itself."""
    if program.aggregates:
        return _partial_aggregate(query)
    if offset is not None and limit is not None:
        # Each partition may have to give all rows that the client skips. Before rows are told apart, none can be cut.
        cut = (n.Literal(0), n.Literal(offset + limit))
        query = (
            replace(query, offset=None, limit=None) if query.distinct else replace(query, offset=cut[0], limit=cut[1])
        )
    if not query.order_by:
        return "" if offset is None else query_text(query)
    items = n.ArrayLiteral(tuple(n.ObjectLiteral((("item", key.expression),)) for key in query.order_by))
    selected = [n.SelectItem(items, "orderByItems"), n.SelectItem(_payload(query), "payload")]
    if not query.distinct:
        rid = n.Member(_root(query), n.Literal("_rid"))
        selected.insert(0, n.SelectItem(rid, "_rid"))
    condition = _FILTER if query.where is None else f"({expression_text(query.where)}) AND ({_FILTER})"
    return query_text(replace(query, items=tuple(selected), value=False), where=condition)


def _root(query: n.Query) -> n.Name:
    alias = query.sources[0].alias
    assert alias is not None  # or it could not be sorted by
    return n.Name(alias)


def _payload(query: n.Query) -> n.Expression:
    if not query.items:
        return _root(query)
    if query.value:
        return query.items[0].expression
    fields = []
    unnamed = 0
    for item in query.items:
        name = item.alias
        match item.expression:
            case n.Name(found) | n.Member(_, n.Literal(str() as found)) if name is None:
                name = found
        if name is None:
            unnamed += 1
            name = f"${unnamed}"
        fields.append((name, item.expression))
    return n.ObjectLiteral(tuple(fields))


def _partial_aggregate(query: n.Query) -> str:
    expression = query.items[0].expression if query.items else None
    if len(query.items) != 1 or not isinstance(expression, n.Call) or expression.name not in _OPERATORS:
        raise bad_request("Compositions of aggregates and other expressions are not allowed across partitions.")
    count = ("count", n.Call("COUNT", expression.arguments))
    fields: list[tuple[str, n.Expression]] = [("item", expression)]
    if expression.name == "AVG":
        fields = [("item", n.ObjectLiteral((("sum", n.Call("SUM", expression.arguments)), count)))]
    elif expression.name in {"MIN", "MAX"}:
        fields.append(("item2", n.ObjectLiteral(((expression.name.lower(), expression), count))))
    row = n.ArrayLiteral((n.ObjectLiteral(tuple(fields)),))
    return query_text(replace(query, items=(n.SelectItem(row, None),), value=True, top=None, order_by=()))
