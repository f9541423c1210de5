"""Refuses what parses but Cosmos DB does not run: clauses that exclude each other, sorting without an index."""

from __future__ import annotations

from typing import Any

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.values import split_path

_ALWAYS_INDEXED = {("id",), ("_ts",)}


def check_clauses(query: n.Query, *, nested: bool) -> None:
    """Refuse clauses that do not go together.

    Raises:
        CosmosError: 400 naming them.
    """
    if nested:
        for clause, given in (
            ("'ORDER BY' is", query.order_by),
            ("'OFFSET LIMIT' clause is", query.offset),
            ("'TOP' is", query.top),
        ):
            if given:
                message = f"{clause} not supported in subqueries."
                raise bad_request(message)
    if query.order_by:
        if query.group_by:
            raise bad_request("'ORDER BY' is not supported in presence of GROUP BY.")
        for key in query.order_by:
            _order_path(query, key)
    if query.group_by and not query.items:
        raise bad_request("'SELECT *' is not supported in presence of GROUP BY.")


def _order_path(query: n.Query, key: n.SortKey) -> tuple[object, ...]:
    """Return the path of a sort key within the document."""
    path: list[object] = []
    node = key.expression
    while isinstance(node, n.Member) and isinstance(node.index, n.Literal):
        path.append(node.index.value)
        node = node.owner
    if not path or not isinstance(node, n.Name):
        raise bad_request(
            "Unsupported ORDER BY clause. ORDER BY item expression could not be mapped to a document path."
        )
    root = query.sources[0] if query.sources else None
    if root is None or all(node.name != source.alias for source in query.sources):
        message = f"Identifier '{node.name}' could not be resolved."
        raise bad_request(message)
    if root.alias != node.name or root.iterate or isinstance(root.collection, n.Subquery):
        raise bad_request("Order-by over correlated collections is not supported.")
    start: n.Expression = root.collection
    while isinstance(start, n.Member) and isinstance(start.index, n.Literal):
        path.append(start.index.value)
        start = start.owner
    return tuple(reversed(path))


def check_order(query: n.Query, policy: dict[str, Any]) -> None:
    """Refuse to sort by what an indexing policy has no index for.

    One key needs its path to be indexed; several need a composite index of exactly these paths, in this order or all
    of them the other way round.

    Raises:
        CosmosError: 400 if there is no such index.
    """
    keys = [(_order_path(query, key), key.descending) for key in query.order_by]
    if len(keys) == 1 and not _indexed(keys[0][0], policy):
        raise bad_request("Order-by item requires a range index to be defined on the corresponding index path.")
    if len(keys) > 1:
        backwards = [(path, not descending) for path, descending in keys]
        composites = [[_composite_key(part) for part in index] for index in policy.get("compositeIndexes") or []]
        if keys not in composites and backwards not in composites:
            message = "The order by query does not have a corresponding composite index that it can be served from."
            raise bad_request(message)


def _composite_key(part: dict[str, Any]) -> tuple[tuple[object, ...], bool]:
    return split_path(str(part.get("path"))), str(part.get("order", "ascending")).lower() == "descending"


def _indexed(path: tuple[object, ...], policy: dict[str, Any]) -> bool:
    if str(policy.get("indexingMode", "consistent")).lower() == "none":
        return path in _ALWAYS_INDEXED
    if path in _ALWAYS_INDEXED:
        return True
    included = (-1, True)
    for field, value in (("includedPaths", True), ("excludedPaths", False)):
        for entry in policy.get(field) or []:
            *names, end = split_path(str(entry.get("path")))
            covers = path[: len(names)] == tuple(names) if end == "*" else path == tuple(names)
            if covers:
                included = max(included, (2 * len(names) + (end == "?"), value))
    return included[1]
