"""Defines the syntax tree of a Cosmos SQL query."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: a JSON scalar or `UNDEFINED`."""

    value: object


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter such as `@id`."""

    name: str


@dataclass(frozen=True, slots=True)
class Name:
    """A FROM alias or, at the start of a path, the root."""

    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """A property or array element: `owner.name`, `owner["name"]`, `owner[0]`, `owner[@p]`."""

    owner: Expression
    index: Expression


@dataclass(frozen=True, slots=True)
class Unary:
    """`NOT`, `-`, `+` or `~` before an operand."""

    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands; `operator` is upper case."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Between:
    """`value BETWEEN low AND high`."""

    value: Expression
    low: Expression
    high: Expression


@dataclass(frozen=True, slots=True)
class In:
    """`value IN (choices)`."""

    value: Expression
    choices: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """`value LIKE pattern ESCAPE escape`."""

    value: Expression
    pattern: Expression
    escape: Expression | None


@dataclass(frozen=True, slots=True)
class Conditional:
    """`test ? yes : no`."""

    test: Expression
    yes: Expression
    no: Expression


@dataclass(frozen=True, slots=True)
class Call:
    """A function call; `name` is upper case."""

    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class ObjectLiteral:
    """`{name: value, …}`."""

    fields: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True, slots=True)
class ArrayLiteral:
    """`[value, …]`."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Subquery:
    """A query in parentheses; `kind` is `EXISTS`, `ARRAY`, `SCALAR` or, in FROM, `ROWS`."""

    kind: str
    query: Query


Expression = (
    Literal
    | Parameter
    | Name
    | Member
    | Unary
    | Binary
    | Between
    | In
    | Like
    | Conditional
    | Call
    | ObjectLiteral
    | ArrayLiteral
    | Subquery
)


def chain(node: Binary) -> list[Expression]:
    """Return the operands of `a AND b AND c`, or of another operator that is repeated, from left to right."""
    operands = [node.right]
    left = node.left
    while isinstance(left, Binary) and left.operator == node.operator:
        operands.append(left.right)
        left = left.left
    return [left, *reversed(operands)]


@dataclass(frozen=True, slots=True)
class SelectItem:
    """One projected expression and its alias, if it has one."""

    expression: Expression
    alias: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """One collection of FROM: a root or path bound to `alias`; with `iterate` its elements (`alias IN path`).

    Only a query in parentheses may be without an alias.
    """

    alias: str | None
    collection: Expression
    iterate: bool


@dataclass(frozen=True, slots=True)
class SortKey:
    """One key of ORDER BY."""

    expression: Expression
    descending: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query. `items` is empty for `SELECT *`; `value` marks `SELECT VALUE`."""

    items: tuple[SelectItem, ...]
    value: bool = False
    distinct: bool = False
    top: Expression | None = None
    sources: tuple[Source, ...] = ()
    where: Expression | None = None
    group_by: tuple[Expression, ...] = ()
    order_by: tuple[SortKey, ...] = ()
    offset: Expression | None = None
    limit: Expression | None = None
