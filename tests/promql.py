"""Takes expressions of dashboards and alert rules apart: the metrics and labels that they name, and those left over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import promql_parser

from core.metric_catalog import CATALOG

if TYPE_CHECKING:
    from collections.abc import Iterable

TARGET = frozenset({"job", "instance"})
"""The labels that Prometheus itself gives every sample."""
VARIABLES = {"$__rate_interval": "5m", "$job": "crossfeed"}
"""What Grafana puts in for its variables, for example."""


@dataclass(frozen=True)
class Selected:
    """One metric that an expression reads: its name, and its matchers as (label, operator, value)."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Read:
    """What an expression reads. `labels` are those that its samples have; `unknown`, what it groups by in vain."""

    selected: tuple[Selected, ...]
    labels: frozenset[str]
    unknown: frozenset[str] = field(default=frozenset())


def read(expression: str) -> Read:
    """Read an expression; raises ValueError where Prometheus would refuse it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return _read(promql_parser.parse(expression))


def _read(node: Any) -> Read:
    match node:
        case promql_parser.VectorSelector() | promql_parser.MatrixSelector():
            return _of_selector(getattr(node, "vector_selector", node))
        case promql_parser.AggregateExpr():
            return _of_aggregate(node)
        case promql_parser.BinaryExpr():
            return _of_binary(node)
        case promql_parser.Call():
            inner = _joined(_read(argument) for argument in node.args)
            return Read(inner.selected, frozenset() if node.func.name == "absent" else inner.labels, inner.unknown)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            return _read(node.expr)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return Read((), frozenset())
        case _:
            raise AssertionError(f"an expression of a kind that no test knows: {type(node).__name__}")


def _of_selector(node: Any) -> Read:
    matchers = tuple((matcher.name, str(matcher.op), matcher.value) for matcher in node.matchers.matchers)
    labels = frozenset(CATALOG[node.name].labels) if node.name in CATALOG else frozenset()
    return Read((Selected(node.name, matchers),), labels | TARGET)


def _of_aggregate(node: Any) -> Read:
    inner = _read(node.expr)
    if node.modifier is None:
        return Read(inner.selected, frozenset(), inner.unknown)
    assert str(node.modifier.type).endswith("By"), "group with `by`: `without` keeps whatever comes"
    by = frozenset(node.modifier.labels)
    return Read(inner.selected, by, inner.unknown | (by - inner.labels))


def _of_binary(node: Any) -> Read:
    left, right = _read(node.lhs), _read(node.rhs)
    matching = getattr(node.modifier, "matching", None)
    on = frozenset(matching.labels) if matching is not None else frozenset()
    joined = _joined((left, right))
    labels = left.labels if left.selected else right.labels
    missing = (on - left.labels) | (on - right.labels)
    return Read(joined.selected, labels, joined.unknown | missing)


def _joined(parts: Iterable[Read]) -> Read:
    found = tuple(parts)
    return Read(
        tuple(selected for part in found for selected in part.selected),
        frozenset().union(*(part.labels for part in found)),
        frozenset().union(*(part.unknown for part in found)),
    )
