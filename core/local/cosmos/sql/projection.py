"""Compiles what a query selects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.evaluate import compile_expression
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from core.local.cosmos.sql.evaluate import Evaluator, Scope

UNNAMED = "$unnamed"  # begins the names of the FROM collections that have no alias


def compile_select(query: n.Query, scope: Scope) -> tuple[Evaluator, list[tuple[str, Evaluator]]]:
    """Return the evaluator of what a query selects, and the aggregates in it with what they are computed of.

    Raises:
        CosmosError: 400 for a projection that is not valid.
    """
    select = scope.without_aggregates()
    select.aggregates = []
    select.groups = frozenset(query.group_by) if query.group_by else None
    project = _compile_projection(query, select)
    if select.aggregates and select.groups is None:
        # Only now it is known that the query has one group, from whose rows nothing but aggregates can be read.
        select.aggregates, select.groups = [], frozenset()
        project = _compile_projection(query, select)
    return project, select.aggregates


def _compile_projection(query: n.Query, scope: Scope) -> Evaluator:
    if not query.items:
        if len(query.sources) != 1:
            raise bad_request("'SELECT *' is only valid with a single input set.")
        alias = query.sources[0].alias or f"{UNNAMED}0"
        return lambda env: env[alias]
    if query.value:
        return compile_expression(query.items[0].expression, scope)
    fields: dict[str, Evaluator] = {}
    for item in query.items:
        name = item.alias or _implied_name(item.expression) or f"${len([f for f in fields if f.startswith('$')]) + 1}"
        if name in fields:
            message = f"The name '{name}' is projected more than once; use aliases."
            raise bad_request(message)
        fields[name] = compile_expression(item.expression, scope)
    compiled = list(fields.items())
    return lambda env: {name: v for name, value in compiled if (v := value(env)) is not UNDEFINED}


def _implied_name(expression: n.Expression) -> str | None:
    match expression:
        case n.Name(name):
            return name
        case n.Member(_, n.Literal(str() as name)):
            return name
    return None
