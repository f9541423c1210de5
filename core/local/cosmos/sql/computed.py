"""Puts the computed properties of a container into the queries that name them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.local.cosmos.errors import CosmosError, bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.parser import parse
from core.local.cosmos.sql.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Computed = tuple[tuple[str, str], ...]  # names and queries

MAX_PROPERTIES = 20
_SYSTEM = frozenset({"id", "_rid", "_ts", "_self", "_etag", "_attachments"})


def checked(definition: object) -> Computed:
    """Return the computed properties that a container is defined with.

    Raises:
        CosmosError: 400 for a definition that is not valid.
    """
    if not isinstance(definition, list) or len(definition) > MAX_PROPERTIES:
        raise _invalid(f"computed properties must be a list of at most {MAX_PROPERTIES}")
    computed: dict[str, str] = {}
    for entry in definition:
        name, text = (entry.get("name"), entry.get("query")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str) or not name or name in _SYSTEM or name in computed:
            raise _invalid("a computed property must have a name of its own and a query")
        _expression(name, text)
        computed[name] = text
    return tuple(computed.items())


def _invalid(why: str) -> CosmosError:
    return bad_request(f"One of the specified inputs is invalid: {why}.")


def _expression(name: str, text: str) -> tuple[str, n.Expression]:
    """Return the alias of a computed property's query and its one expression."""
    query = parse(text)
    match query:
        case n.Query(
            items=(n.SelectItem(expression),), sources=(n.Source(str() as alias, n.Name(), iterate=False),)
        ) if query == n.Query(items=query.items, value=True, sources=query.sources):
            Program(query)  # what it names must be there
            return alias, expression
    raise _invalid(f"the computed property '{name}' must be defined as SELECT VALUE of one expression and nothing more")


@lru_cache(maxsize=64)
def compile_computed(text: str, computed: Computed) -> Program:
    """Return the program of a query over documents that have computed properties; `SELECT *` does not show them.

    Raises:
        CosmosError: 400 for a query that is not valid.
    """
    query = parse(text)
    root = query.sources[0] if query.sources else None
    if root is None or root.alias is None or root.iterate or not isinstance(root.collection, n.Name):
        return Program(query)
    defined = {name: _expression(name, definition) for name, definition in computed}
    return Program(query, expanded=_with_computed(query, root.alias, defined))


def _with_computed(query: n.Query, alias: str, defined: Mapping[str, tuple[str, n.Expression]]) -> n.Query:
    def computed(node: object) -> n.Expression | None:
        match node:
            case n.Member(n.Name(owner), n.Literal(str() as name)) if owner == alias and name in defined:
                its_alias, expression = defined[name]
                rooted: n.Expression = _replaced(expression, lambda inner: _renamed(inner, its_alias, alias))
                return rooted
        return None

    # A property that is projected without an alias keeps its name.
    named = [
        replace(item, alias=item.alias or item.expression.index.value) if computed(item.expression) else item  # type: ignore[union-attr, arg-type]
        for item in query.items
    ]
    whole: n.Query = _replaced(replace(query, items=tuple(named)), computed)
    return whole


def _renamed(node: object, old: str, new: str) -> n.Expression | None:
    return n.Name(new) if node == n.Name(old) else None


def _replaced(node: Any, replacement: Callable[[object], n.Expression | None]) -> Any:  # noqa: ANN401 - any part of a tree
    """Return a part of a syntax tree in which every node that has a replacement is replaced by it."""
    if isinstance(node, tuple):
        return tuple([_replaced(part, replacement) for part in node])
    if not is_dataclass(node) or isinstance(node, type):
        return node
    other = replacement(node)
    if other is not None:
        return other
    return replace(node, **{f.name: _replaced(getattr(node, f.name), replacement) for f in fields(node)})
