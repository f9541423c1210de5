"""Compiles a query to a program that runs over documents."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.aggregates import aggregate
from core.local.cosmos.sql.compare import canonical, sort_key
from core.local.cosmos.sql.evaluate import Scope, compile_expression
from core.local.cosmos.sql.parser import parse
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from core.local.cosmos.sql.evaluate import Environment, Evaluator

ROOT = "$root"
NUMBER = "$number"


class Row(NamedTuple):
    """One result: its sort keys, the number of its document, its place among that document's rows, its value."""

    keys: tuple[tuple[int, Any], ...]
    number: int
    part: int
    value: Any


class Window(NamedTuple):
    """What OFFSET, LIMIT and TOP say, None where they are absent."""

    offset: int | None
    limit: int | None
    top: int | None


class Program:
    """A compiled query. `streams` says that each document's rows do not depend on other documents."""

    def __init__(self, query: n.Query, outer: frozenset[str] | None = None) -> None:
        self.query = query
        self._binders: list[tuple[str, Evaluator, bool]] = []
        names = outer or frozenset()
        for source in query.sources:
            names = self._add_source(source, names, top=outer is None)
        scope = Scope(names, _compile_subquery)
        self._where = compile_expression(query.where, scope) if query.where is not None else None
        self._groups = [compile_expression(key, scope) for key in query.group_by]
        select_scope = Scope(names, _compile_subquery)
        select_scope.aggregates = []
        self._project = _compile_projection(query, select_scope)
        self._sort = [(compile_expression(key.expression, select_scope), key.descending) for key in query.order_by]
        self.aggregates = select_scope.aggregates
        self._aliases = [source.alias for source in query.sources]
        self._top, self._offset, self._limit = (
            compile_expression(part, scope) if part is not None else None
            for part in (query.top, query.offset, query.limit)
        )
        self.grouped = bool(self._groups or self.aggregates)
        windowed = query.top is not None or query.offset is not None
        self.streams = not (self.grouped or windowed or query.order_by or query.distinct)

    def _add_source(self, source: n.Source, names: frozenset[str], *, top: bool) -> frozenset[str]:
        if isinstance(source.collection, n.Subquery):
            evaluator, iterate = compile_expression(source.collection, Scope(names, _compile_subquery)), True
        else:
            collection: n.Expression = source.collection
            if top and not self._binders:
                collection = _rooted(collection)
                names |= {ROOT}
            evaluator, iterate = compile_expression(collection, Scope(names, _compile_subquery)), source.iterate
        if source.alias in self._bound():
            message = f"The input alias '{source.alias}' is specified more than once in the FROM clause."
            raise bad_request(message)
        self._binders.append((source.alias, evaluator, iterate))
        return names | {source.alias}

    def _bound(self) -> set[str]:
        return {alias for alias, _, _ in self._binders}

    def rows(self, environment: Environment, roots: Iterable[Any]) -> list[Any]:
        """Return all results over the given documents, ordered and cut as the query says."""
        rows = self.sorted_rows(environment, enumerate(roots))
        window = self.window(environment)
        first = window.offset or 0
        ends = [first + window.limit] if window.limit is not None else []
        ends += [window.top] if window.top is not None else []
        return [row.value for row in rows[first : min(ends, default=len(rows))]]

    def rows_of(self, environment: Environment, root: object) -> list[Any]:
        """Return the results of one document; only for a program that streams."""
        project = self._project
        env = dict(environment)
        return [value for row in self._matches(env, ((0, root),)) if (value := project(row)) is not UNDEFINED]

    def sorted_rows(self, environment: Environment, roots: Iterable[tuple[int, Any]]) -> list[Row]:
        """Return all rows over numbered documents in the query's order, before OFFSET, LIMIT and TOP."""
        env = dict(environment)
        envs = self._grouped(env, roots) if self.grouped else self._matches(env, roots)
        project, sort = self._project, [evaluator for evaluator, _ in self._sort]
        rows: list[Row] = []
        number = part = 0
        for row in envs:
            part = part + 1 if row[NUMBER] == number else 0
            number = row[NUMBER]
            value = project(row)
            if value is not UNDEFINED:
                rows.append(Row(tuple([sort_key(evaluator(row)) for evaluator in sort]), number, part, value))
        for index in range(len(sort) - 1, -1, -1):
            rows.sort(key=lambda row, i=index: row.keys[i], reverse=self._sort[index][1])  # type: ignore[misc]
        return list(_distinct(rows)) if self.query.distinct else rows

    def follows(self, row: Row, keys: list[Any], number: int, part: int) -> bool:
        """Say whether a row sorts after a position."""
        for (rank, value), (_, descending), (other_rank, other) in zip(row.keys, self._sort, keys, strict=True):
            if rank != other_rank:
                return (rank > other_rank) is not descending
            if value != other:
                return (value > other) is not descending
        return (row.number, row.part) > (number, part)

    @property
    def resumable(self) -> bool:
        """Whether a row's place is known by its sort keys, whatever was written since."""
        return bool(self._sort) and not self.grouped and not self.query.distinct

    @property
    def sort_width(self) -> int:
        """The number of ORDER BY keys."""
        return len(self._sort)

    def window(self, environment: Environment) -> Window:
        """Return what OFFSET, LIMIT and TOP say.

        Raises:
            CosmosError: 400 if one is no non-negative integer.
        """
        return Window(
            offset=_count(self._offset, environment, "OFFSET"),
            limit=_count(self._limit, environment, "LIMIT"),
            top=_count(self._top, environment, "TOP"),
        )

    def _matches(self, env: Environment, roots: Iterable[tuple[int, Any]]) -> Iterator[Environment]:
        where = self._where
        for env[NUMBER], env[ROOT] in roots:
            for _ in self._bind(env, 0):
                if where is None or where(env) is True:
                    yield env

    def _bind(self, env: Environment, depth: int) -> Iterator[None]:
        if depth == len(self._binders):
            yield
            return
        alias, evaluator, iterate = self._binders[depth]
        value = evaluator(env)
        if not iterate:
            if value is not UNDEFINED:
                env[alias] = value
                yield from self._bind(env, depth + 1)
        elif type(value) is list:
            for item in value:
                env[alias] = item
                yield from self._bind(env, depth + 1)

    def _grouped(self, env: Environment, roots: Iterable[tuple[int, Any]]) -> Iterator[Environment]:
        groups: dict[bytes, tuple[Environment, list[list[Any]]]] = {}
        for row in self._matches(env, roots):
            key = b"\x00".join([canonical(evaluator(row)) for evaluator in self._groups])
            group = groups.get(key)
            if group is None:
                group = groups[key] = (dict(row), [[] for _ in self.aggregates])
            for (_, evaluator), values in zip(self.aggregates, group[1], strict=True):
                values.append(evaluator(row))
        if not groups and not self._groups:
            nothing = {**env, **dict.fromkeys(self._aliases, UNDEFINED), NUMBER: 0}
            groups[b""] = (nothing, [[] for _ in self.aggregates])
        for row, collected in groups.values():
            for index, ((name, _), values) in enumerate(zip(self.aggregates, collected, strict=True)):
                row[f"#{index}"] = aggregate(name, values)
            yield row


def _count(evaluator: Evaluator | None, environment: Environment, clause: str) -> int | None:
    if evaluator is None:
        return None
    value = evaluator(environment)
    if type(value) is not int or value < 0:
        message = f"The {clause} of a query must be a non-negative integer."
        raise bad_request(message)
    return value


def _distinct(rows: Iterable[Row]) -> Iterator[Row]:
    seen: set[bytes] = set()
    for row in rows:
        key = canonical(row.value)
        if key not in seen:
            seen.add(key)
            yield row


def _rooted(collection: n.Expression) -> n.Expression:
    if isinstance(collection, n.Member):
        return n.Member(_rooted(collection.owner), collection.index)
    return n.Name(ROOT)


def _compile_projection(query: n.Query, scope: Scope) -> Evaluator:
    if not query.items:
        if len(query.sources) != 1:
            raise bad_request("'SELECT *' is only valid with a single input set.")
        alias = query.sources[0].alias
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


def _compile_subquery(query: n.Query, scope: Scope) -> Callable[[Environment], list[Any]]:
    program = Program(query, scope.names)
    return lambda env: program.rows(env, (env.get(ROOT),))


@lru_cache(maxsize=1024)
def compile_query(text: str) -> Program:
    """Return the program of a query.

    Raises:
        CosmosError: 400 for a query that is not valid.
    """
    return Program(parse(text))
