"""Turns the text of a query into its syntax tree."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import lark

from core.local.cosmos.errors import bad_request, unsupported
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.values import UNDEFINED

MAX_QUERY = 512 * 1024
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@lru_cache(maxsize=1)
def _parser() -> lark.Lark:
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(grammar, start="query", parser="lalr", lexer="contextual", maybe_placeholders=True)


@lru_cache(maxsize=1024)
def parse(text: str) -> n.Query:
    """Return the syntax tree of a query.

    Raises:
        CosmosError: 400 for a syntax error or something that is not supported.
    """
    if len(text) > MAX_QUERY:
        raise bad_request("The SQL query text exceeded the maximum limit of 512 KB.")
    try:
        tree = _parser().parse(text)
    except lark.UnexpectedInput as error:
        position = error.pos_in_stream if isinstance(error, lark.UnexpectedCharacters) else _position(error, text)
        near = (text[position:].split() or ["<end of query>"])[0]
        message = f"Syntax error, incorrect syntax near '{near}' at position {position}."
        raise bad_request(message) from error
    try:
        query = _Builder().transform(tree)
    except lark.exceptions.VisitError as error:
        raise error.orig_exc from error
    assert isinstance(query, n.Query)
    return query


def _position(error: lark.UnexpectedInput, text: str) -> int:
    token = error.token if isinstance(error, lark.UnexpectedToken) else None
    return len(text) if token is None or token.start_pos is None else token.start_pos


def _unquote(text: str) -> str:
    out: list[str] = []
    position = 1
    while position < len(text) - 1:
        char = text[position]
        if char != "\\":
            out.append(char)
            position += 1
            continue
        char = text[position + 1]
        if char == "u":
            digits = text[position + 2 : position + 6]
            try:
                out.append(chr(int(digits, 16)))
            except ValueError as error:
                raise bad_request("A string holds an invalid \\u escape.") from error
            position += 6
        else:
            out.append(_ESCAPES.get(char, char))
            position += 2
    joined = "".join(out)
    return joined.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if "\\u" in text else joined


class _Builder(lark.Transformer[Any, Any]):
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
        collection = children[0]
        return n.Source(_implied_alias(collection), collection, iterate=False)

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
        return n.Subquery("ARRAY", children[0])

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
        if operator == "-" and isinstance(operand, n.Literal) and isinstance(operand.value, int | float):
            return n.Literal(-operand.value)
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
        return n.Like(*children)

    def not_like(self, children: list[Any]) -> n.Expression:
        return n.Unary("NOT", n.Like(*children))

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
        return (_unquote(name) if isinstance(name, lark.Token) else name), value

    def array_literal(self, children: list[Any]) -> n.Expression:
        return n.ArrayLiteral(tuple(child for child in children if child is not None))

    def number(self, children: list[Any]) -> n.Expression:
        return n.Literal(float(children[0]))

    def integer(self, children: list[Any]) -> n.Expression:
        return _whole(int(children[0]))

    def hex(self, children: list[Any]) -> n.Expression:
        return _whole(int(children[0], 16))

    def string(self, children: list[Any]) -> n.Expression:
        return n.Literal(_unquote(children[0]))

    def true(self, _: list[Any]) -> n.Expression:
        return n.Literal(value=True)

    def false(self, _: list[Any]) -> n.Expression:
        return n.Literal(value=False)

    def null(self, _: list[Any]) -> n.Expression:
        return n.Literal(None)

    def undefined(self, _: list[Any]) -> n.Expression:
        return n.Literal(UNDEFINED)


def _whole(value: int) -> n.Literal:
    return n.Literal(value if abs(value) < 1 << 63 else float(value))


def _count(token: lark.Token) -> n.Expression:
    return n.Parameter(str(token)) if token.type == "PARAMETER" else n.Literal(int(token))


def _implied_alias(collection: n.Expression) -> str:
    match collection:
        case n.Name(name):
            return name
        case n.Member(_, n.Literal(str() as name)):
            return name
    raise bad_request("A FROM collection that does not end in a name needs an alias.")
