"""Finds the partition key that a filter pins down, so that the query goes to one logical partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.local.cosmos.sql import nodes as n

if TYPE_CHECKING:
    from collections.abc import Iterator


def partition_key_of(
    query: n.Query, environment: dict[str, Any], paths: list[tuple[str, ...]]
) -> tuple[Any, ...] | None:
    """Return the partition key to which the query's filter is confined, None if it may match several."""
    if query.where is None or len(query.sources) != 1 or query.sources[0].iterate:
        return None
    alias = query.sources[0].alias
    if alias is None or not isinstance(query.sources[0].collection, n.Name):
        return None
    pinned: dict[tuple[str, ...], Any] = {}
    for condition in _conjuncts(query.where):
        match condition:
            case n.Binary("=", left, right):
                for path, value in ((left, right), (right, left)):
                    names = _path(path, alias)
                    constant = _constant(value, environment)
                    if names is not None and constant is not None:
                        pinned[names] = constant
    key = tuple(pinned.get(path) for path in paths)
    return None if None in key else key


def _conjuncts(node: n.Expression) -> Iterator[n.Expression]:
    if isinstance(node, n.Binary) and node.operator == "AND":
        for operand in n.chain(node):
            yield from _conjuncts(operand)
    else:
        yield node


def _path(node: n.Expression, alias: str) -> tuple[str, ...] | None:
    names: list[str] = []
    while isinstance(node, n.Member) and isinstance(node.index, n.Literal) and isinstance(node.index.value, str):
        names.append(node.index.value)
        node = node.owner
    return tuple(reversed(names)) if node == n.Name(alias) and names else None


def _constant(node: n.Expression, environment: dict[str, Any]) -> str | float | bool | None:
    value: object = None
    if isinstance(node, n.Literal):
        value = node.value
    elif isinstance(node, n.Parameter):
        value = environment.get(node.name)
    return value if isinstance(value, str | int | float) else None
