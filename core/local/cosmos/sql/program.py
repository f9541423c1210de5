"""Compiles a query to a program that runs over documents."""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.aggregates import aggregate
from core.local.cosmos.sql.compare import canonical, sort_key
from core.local.cosmos.sql.evaluate import CONTEXT, Scope, compile_expression
from core.local.cosmos.sql.parser import parse, too_deep
from core.local.cosmos.sql.projection import UNNAMED, compile_select
from core.local.cosmos.sql.rules import check_clauses
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from core.local.cosmos.sql.evaluate import Environment, Evaluator
    from core.local.cosmos.sql.signature import Context

ROOT = "$root"
NUMBER = "$number"
_number_of = attrgetter("number")


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
    """A compiled query. `streams` says that each document's rows do not depend on other documents.

    A query without FROM is `constant`: it has one row, whatever documents there are. What runs is the `expanded` query,
    in which names stand for expressions, if there is one.
    """

    def __init__(
        self,
        query: n.Query,
        outer: frozenset[str] | None = None,
        parameters: set[str] | None = None,
        *,
        expanded: n.Query | None = None,
    ) -> None:
        check_clauses(query, nested=outer is not None)
        self.query = query
        query = expanded or query
        self.parameters = set() if parameters is None else parameters
        self.constant = outer is None and not query.sources
        self._nested = outer is not None
        self._inner: Program | None = None
        self._binders: list[tuple[str, Callable[[Environment], list[Any]]]] = []
        names = outer or frozenset()
        for source in query.sources:
            names = self._add_source(source, names, top=outer is None and not self._binders)
        scope = Scope(names, self.parameters, _compile_subquery)
        self._where = compile_expression(query.where, scope) if query.where is not None else None
        self._groups = [compile_expression(key, scope) for key in query.group_by]
        self._project, self.aggregates = compile_select(query, scope)
        self._sort = [(compile_expression(key.expression, scope), key.descending) for key in query.order_by]
        self._top, self._offset, self._limit = (
            compile_expression(part, scope) if part is not None else None
            for part in (query.top, query.offset, query.limit)
        )
        self.grouped = bool(self._groups or self.aggregates)
        windowed = query.top is not None or query.offset is not None
        self.streams = not (self.grouped or windowed or query.order_by or query.distinct or self.reads_whole)

    @property
    def reads_whole(self) -> bool:
        """Whether the query reads another in FROM that must see all documents first."""
        return self._inner is not None and not self._inner.streams

    def _add_source(self, source: n.Source, names: frozenset[str], *, top: bool) -> frozenset[str]:
        scope = Scope(names | {ROOT}, self.parameters, _compile_subquery)
        alias = source.alias or f"{UNNAMED}{len(self._binders)}"
        if any(alias == bound for bound, _ in self._binders):
            message = f"The input alias '{alias}' is specified more than once in the FROM clause."
            raise bad_request(message)
        collection = source.collection
        rows = isinstance(collection, n.Subquery)
        if isinstance(collection, n.Subquery) and top:
            check_clauses(collection.query, nested=True)
            self._inner = Program(collection.query, None, self.parameters)
            collection, rows = n.Name(ROOT), False
        elif top:
            collection = _rooted(collection)
        self._binders.append((alias, _items_of(compile_expression(collection, scope), rows, source.iterate)))
        return names | {alias}

    def rows(self, environment: Environment, roots: Iterable[Any]) -> list[Any]:
        """Return all results over the given documents, ordered and cut as the query says."""
        return [row.value for row in self.cut_rows(environment, enumerate(roots))]

    def cut_rows(self, environment: Environment, roots: Iterable[tuple[int, Any]]) -> list[Row]:
        """Return the rows over numbered documents that OFFSET, LIMIT and TOP leave."""
        rows = self.sorted_rows(environment, roots)
        window = self.window(environment)
        first = window.offset or 0
        ends = [first + window.limit] if window.limit is not None else []
        ends += [window.top] if window.top is not None else []
        return rows[first : min(ends, default=len(rows))]

    def rows_of(self, environment: Environment, root: object) -> Iterator[Any]:
        """Iterate over the results of one document; only for a program that streams."""
        project = self._project
        env = dict(environment)
        return (value for row in self._matches(env, ((0, root),)) if (value := project(row)) is not UNDEFINED)

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
        if sort:
            rows.sort(key=_number_of, reverse=self.descends)
        for index in range(len(sort) - 1, -1, -1):
            rows.sort(key=lambda row, i=index: row.keys[i], reverse=self._sort[index][1])  # type: ignore[misc]
        return list(_distinct(rows, env[CONTEXT])) if self.query.distinct else rows

    def follows(self, row: Row, keys: list[Any], number: int, part: int) -> bool:
        """Say whether a row sorts after a position."""
        for (rank, value), (_, descending), (other_rank, other) in zip(row.keys, self._sort, keys, strict=True):
            if rank != other_rank:
                return (rank > other_rank) is not descending
            if value != other:
                return (value > other) is not descending
        if self.query.distinct:
            return False
        if row.number != number:
            return (row.number < number) is self.descends
        return row.part > part

    @property
    def descends(self) -> bool:
        """Whether rows that sort alike follow from the newest document to the oldest: as the first key does."""
        return bool(self._sort) and self._sort[0][1]

    @property
    def resumable(self) -> bool:
        """Whether a row's place is known by its sort keys, whatever was written since."""
        return bool(self._sort) and not self.grouped and (not self.query.distinct or sorts_what_it_selects(self.query))

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
        if self.constant:
            roots = ((0, UNDEFINED),)
        elif self._inner is not None:
            roots = [(row.number, row.value) for row in self._inner.cut_rows(env, roots)]
        for env[NUMBER], env[ROOT] in roots:
            env[CONTEXT].go_on()
            for _ in self._bind(env, 0):
                if where is None or where(env) is True:
                    yield env

    def _bind(self, env: Environment, depth: int) -> Iterator[None]:
        if depth == len(self._binders):
            yield
            return
        alias, items = self._binders[depth]
        context = env.get(CONTEXT) if self._nested or depth else None
        for item in items(env):
            if context is not None:
                context.spend_row()
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
            nothing = {**env, **dict.fromkeys([alias for alias, _ in self._binders], UNDEFINED), NUMBER: 0}
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


def _distinct(rows: Iterable[Row], context: Context) -> Iterator[Row]:
    seen: set[bytes] = set()
    for row in rows:
        context.go_on()
        key = canonical(row.value)
        if key not in seen:
            seen.add(key)
            yield row


def sorts_what_it_selects(query: n.Query) -> bool:
    """Say whether rows that are equal follow each other: the selected expressions are the first sort keys."""
    selected = {item.expression for item in query.items}
    return bool(selected) and selected == {key.expression for key in query.order_by[: len(selected)]}


def _rooted(collection: n.Expression) -> n.Expression:
    if isinstance(collection, n.Member):
        return n.Member(_rooted(collection.owner), collection.index)
    return n.Name(ROOT)


def _items_of(evaluator: Evaluator, rows: bool, iterate: bool) -> Callable[[Environment], list[Any]]:
    """Return what a FROM collection binds its alias to: a value, the rows of a query, or the elements of either."""

    def items(env: Environment) -> list[Any]:
        found = evaluator(env)
        values: list[Any] = found if rows else [found]
        if iterate:
            return [item for value in values if type(value) is list for item in value]
        return [] if found is UNDEFINED else values

    return items


def _compile_subquery(query: n.Query, scope: Scope) -> Callable[[Environment], list[Any]]:
    program = Program(query, scope.names, scope.parameters)
    return lambda env: program.rows(env, (env.get(ROOT),))


def compile_query(text: str) -> Program:
    """Return the program of a query.

    Raises:
        CosmosError: 400 for a query that is not valid.
    """
    return _short(text) if len(text) <= _SHORT else _long(text)


def _compile(text: str) -> Program:
    try:
        return Program(parse(text))
    except RecursionError as error:
        raise too_deep() from error


# A program takes up to a hundred times the memory of its text. Long ones are kept for their next pages.
_SHORT = 2048
_short = lru_cache(maxsize=512)(_compile)
_long = lru_cache(maxsize=8)(_compile)
