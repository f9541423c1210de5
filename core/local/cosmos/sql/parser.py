"""Turns the text of a query into its syntax tree."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import lark
from lark.visitors import Transformer_NonRecursive

from core.local.cosmos.errors import CosmosError, bad_request, unsupported
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.literals import unquoted, whole_number
from core.local.cosmos.sql.operators import finite
from core.local.cosmos.values import UNDEFINED

MAX_QUERY = 512 * 1024
_MAX_TOKENS = 25_000  # nobody else is answered while a query is parsed
_TOKENS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\w+|[^\w\s]""")
MAX_COUNT = (1 << 32) - 1  # of TOP, OFFSET and LIMIT


@lru_cache(maxsize=1)
def _parser() -> lark.Lark:
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(grammar, start="query", parser="lalr", lexer="contextual", maybe_placeholders=True)


def parse(text: str) -> n.Query:
    """Return the syntax tree of a query.

    Raises:
        CosmosError: 400 for a syntax error or something that is not supported.
    """
    if len(text) > MAX_QUERY:
        raise bad_request("The SQL query text exceeded the maximum limit of 512 KB.")
    if len(_TOKENS.findall(text)) > _MAX_TOKENS:
        message = f"The query is too complex: it has more than {_MAX_TOKENS} words and signs."
        raise bad_request(message)
    try:
        tree = _parser().parse(text)
    except lark.UnexpectedInput as error:
        position = error.pos_in_stream if isinstance(error, lark.UnexpectedCharacters) else _position(error, text)
        position = len(text) if position is None else position
        near = (text[position:].split() or ["<end of query>"])[0][:80]
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        message = f"Syntax error, incorrect syntax near '{near}' at line {line}, column {column}."
        raise bad_request(message) from error
    try:
        query = _Builder().transform(tree)
    except lark.exceptions.VisitError as error:
        raise error.orig_exc from error
    assert isinstance(query, n.Query)
    return query


def too_deep() -> CosmosError:
    """Return the 400 for a query that is nested too deeply to be computed."""
    return bad_request("The SQL query is nested too deeply.")


def _position(error: lark.UnexpectedInput, text: str) -> int:
    token = error.token if isinstance(error, lark.UnexpectedToken) else None
    return len(text) if token is None or token.start_pos is None else token.start_pos


class _Builder(Transformer_NonRecursive[Any, Any]):
    """Builds nodes bottom-up; each method is named after its grammar rule."""

    def query(self, children: list[Any]) -> n.Query:
        parts: dict[str, Any] = {}
        for child in children:
            if child is not None:
                parts.update(child)
        return n.Query(**parts)

    def distinct(self, _: list[Any]) -> dict[str, Any]:
        return {"distinct": True}

    def top(self, children: list[Any]) -> dict[str, Any]:
        return {"top": _count(children[0])}

    def select_star(self, _: list[Any]) -> dict[str, Any]:
        return {"items": ()}

    def select_value(self, children: list[Any]) -> dict[str, Any]:
        return {"items": (n.SelectItem(children[0], None),), "value": True}

    def select_list(self, children: list[Any]) -> dict[str, Any]:
        return {"items": tuple(children)}

    def select_item(self, children: list[Any]) -> n.SelectItem:
        expression, *names = children
        alias = next((name for name in names if name is not None), None)
        return n.SelectItem(expression, alias)

    def from_clause(self, children: list[Any]) -> dict[str, Any]:
        return {"sources": tuple(children)}

    def source_plain(self, children: list[Any]) -> n.Source:
        return n.Source(_implied_alias(children[0]), children[0], iterate=False)

    def source_alias(self, children: list[Any]) -> n.Source:
        return n.Source(children[1], children[0], iterate=False)

    def source_in(self, children: list[Any]) -> n.Source:
        return n.Source(children[0], children[1], iterate=True)

    def collection_path(self, children: list[Any]) -> n.Expression:
        path: n.Expression = n.Name(children[0])
        for step in children[1:]:
            path = n.Member(path, step)
        return path

    def collection_query(self, children: list[Any]) -> n.Expression:
        return n.Subquery("ROWS", children[0])

    def step(self, children: list[Any]) -> n.Expression:
        step = children[0]
        return n.Literal(step) if isinstance(step, str) else step

    def where_clause(self, children: list[Any]) -> dict[str, Any]:
        return {"where": children[0]}

    def group_clause(self, children: list[Any]) -> dict[str, Any]:
        return {"group_by": tuple(children)}

    def order_clause(self, children: list[Any]) -> dict[str, Any]:
        return {"order_by": tuple(children)}

    def order_rank(self, _: list[Any]) -> dict[str, Any]:
        raise unsupported("ORDER BY RANK (full-text and hybrid search)")

    def ascending(self, children: list[Any]) -> n.SortKey:
        return n.SortKey(children[0], descending=False)

    def descending(self, children: list[Any]) -> n.SortKey:
        return n.SortKey(children[0], descending=True)

    def offset_clause(self, children: list[Any]) -> dict[str, Any]:
        return {"offset": _count(children[0]), "limit": _count(children[1])}

    def conditional(self, children: list[Any]) -> n.Expression:
        return n.Conditional(*children)

    def coalesce(self, children: list[Any]) -> n.Expression:
        return n.Binary("??", *children)

    def or_(self, children: list[Any]) -> n.Expression:
        return n.Binary("OR", *children)

    def and_(self, children: list[Any]) -> n.Expression:
        return n.Binary("AND", *children)

    def not_(self, children: list[Any]) -> n.Expression:
        return n.Unary("NOT", children[0])

    def binary(self, children: list[Any]) -> n.Expression:
        left, operator, right = children
        return n.Binary("!=" if operator == "<>" else str(operator), left, right)

    def unary(self, children: list[Any]) -> n.Expression:
        operator, operand = children
        if operator == "-" and isinstance(operand, n.Literal) and type(operand.value) in {int, float}:
            return n.Literal(finite(-operand.value))  # type: ignore[operator]  # a number
        return n.Unary(str(operator), operand)

    def in_(self, children: list[Any]) -> n.Expression:
        return n.In(children[0], tuple(children[1:]))

    def not_in(self, children: list[Any]) -> n.Expression:
        return n.Unary("NOT", self.in_(children))

    def between(self, children: list[Any]) -> n.Expression:
        return n.Between(*children)

    def not_between(self, children: list[Any]) -> n.Expression:
        return n.Unary("NOT", n.Between(*children))

    def like(self, children: list[Any]) -> n.Expression:
        value, pattern, escape = children
        if escape is not None:
            escape = n.Parameter(str(escape)) if escape.type == "PARAMETER" else n.Literal(unquoted(escape))
        return n.Like(value, pattern, escape)

    def not_like(self, children: list[Any]) -> n.Expression:
        return n.Unary("NOT", self.like(children))

    def member(self, children: list[Any]) -> n.Expression:
        return n.Member(children[0], n.Literal(children[1]))

    def element(self, children: list[Any]) -> n.Expression:
        return n.Member(children[0], children[1])

    def name(self, children: list[Any]) -> str:
        return str(children[0])

    def property(self, children: list[Any]) -> str:
        return self.name(children)

    def function(self, children: list[Any]) -> str:
        return self.name(children)

    def parameter(self, children: list[Any]) -> n.Expression:
        return n.Parameter(str(children[0]))

    def root(self, children: list[Any]) -> n.Expression:
        return n.Name(children[0])

    def call(self, children: list[Any]) -> n.Expression:
        return n.Call(children[0].upper(), tuple(child for child in children[1:] if child is not None))

    def udf(self, children: list[Any]) -> n.Expression:
        message = f"the user-defined function {children[0]}"
        raise unsupported(message)

    def exists(self, children: list[Any]) -> n.Expression:
        return n.Subquery("EXISTS", children[0])

    def array(self, children: list[Any]) -> n.Expression:
        return n.Subquery("ARRAY", children[0])

    def scalar(self, children: list[Any]) -> n.Expression:
        return n.Subquery("SCALAR", children[0])

    def object(self, children: list[Any]) -> n.Expression:
        return n.ObjectLiteral(tuple(child for child in children if child is not None))

    def field(self, children: list[Any]) -> tuple[str, n.Expression]:
        name, value = children
        return (unquoted(name) if isinstance(name, lark.Token) else name), value

    def array_literal(self, children: list[Any]) -> n.Expression:
        return n.ArrayLiteral(tuple(child for child in children if child is not None))

    def number(self, children: list[Any]) -> n.Expression:
        return n.Literal(finite(float(children[0])))

    def integer(self, children: list[Any]) -> n.Expression:
        return n.Literal(whole_number(children[0]))

    def hex(self, children: list[Any]) -> n.Expression:
        return n.Literal(finite(int(children[0], 16)))

    def string(self, children: list[Any]) -> n.Expression:
        return n.Literal(unquoted(children[0]))

    def true(self, _: list[Any]) -> n.Expression:
        return n.Literal(value=True)

    def false(self, _: list[Any]) -> n.Expression:
        return n.Literal(value=False)

    def null(self, _: list[Any]) -> n.Expression:
        return n.Literal(None)

    def undefined(self, _: list[Any]) -> n.Expression:
        return n.Literal(UNDEFINED)


def _count(token: lark.Token) -> n.Expression:
    return n.Parameter(str(token)) if token.type == "PARAMETER" else n.Literal(_limit(token))


def _limit(digits: str) -> int:
    if len(digits) > len(str(MAX_COUNT)) or int(digits) > MAX_COUNT:
        message = f"The count {digits[:20]} exceeds the maximum allowed value."
        raise bad_request(message)
    return int(digits)


def _implied_alias(collection: n.Expression) -> str | None:
    match collection:
        case n.Subquery():
            return None
        case n.Name(name):
            return name
        case n.Member(_, n.Literal(str() as name)):
            return name
    raise bad_request("A FROM collection that does not end in a name needs an alias.")
