"""Compiles expressions to closures over an environment of aliases and parameters."""

from __future__ import annotations

import operator as operators
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, assert_never

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.aggregates import AGGREGATES
from core.local.cosmos.sql.compare import equal, type_rank
from core.local.cosmos.sql.functions import FUNCTIONS
from core.local.cosmos.sql.operators import ARITHMETIC, compare_operator
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable

    Environment = dict[str, Any]
    Evaluator = Callable[[Environment], Any]
    SubqueryCompiler = Callable[[n.Query, "Scope"], Callable[[Environment], list[Any]]]

_SIGNS: Final[dict[str, Callable[[Any], Any]]] = {
    "-": operators.neg,
    "+": operators.pos,
    "~": lambda value: ~int(value),
}


class Scope:
    """What a compiler knows: the names that are bound and the aggregates met so far.

    `aggregates` is None where aggregates are not allowed (WHERE, FROM).
    """

    def __init__(self, names: frozenset[str], subquery: SubqueryCompiler) -> None:
        self.names = names
        self.subquery = subquery
        self.aggregates: list[tuple[str, Evaluator]] | None = None

    def without_aggregates(self) -> Scope:
        """Return the same scope for a part of the query in which aggregates are not allowed."""
        return Scope(self.names, self.subquery)


def compile_expression(node: n.Expression, scope: Scope) -> Evaluator:  # noqa: C901, PLR0911, PLR0912 - a dispatch
    """Return a function from an environment to the value of an expression.

    Raises:
        CosmosError: 400 for an unknown name or function.
    """
    match node:
        case n.Literal(value):
            return lambda _: value
        case n.Parameter(name):
            return lambda env: _parameter(env, name)
        case n.Name(name):
            return _compile_name(name, scope)
        case n.Member():
            return _compile_member(node, scope)
        case n.Unary(operator, operand):
            return _compile_unary(operator, compile_expression(operand, scope))
        case n.Binary(operator, left, right):
            return _compile_binary(operator, compile_expression(left, scope), compile_expression(right, scope))
        case n.Between(value, low, high):
            above = _compile_binary(">=", compile_expression(value, scope), compile_expression(low, scope))
            below = _compile_binary("<=", compile_expression(value, scope), compile_expression(high, scope))
            return _compile_binary("AND", above, below)
        case n.In(value, choices):
            return _compile_in(compile_expression(value, scope), [compile_expression(c, scope) for c in choices])
        case n.Like():
            return _compile_like(node, scope)
        case n.Conditional(test, yes, no):
            tested, when, otherwise = (compile_expression(part, scope) for part in (test, yes, no))
            return lambda env: when(env) if tested(env) is True else otherwise(env)
        case n.Call(name, arguments):
            return _compile_call(name, arguments, scope)
        case n.ObjectLiteral(fields):
            compiled = [(name, compile_expression(value, scope)) for name, value in fields]
            return lambda env: {name: v for name, value in compiled if (v := value(env)) is not UNDEFINED}
        case n.ArrayLiteral(items):
            parts = [compile_expression(item, scope) for item in items]
            return lambda env: [v for part in parts if (v := part(env)) is not UNDEFINED]
        case n.Subquery(kind, query):
            return _compile_subquery(kind, query, scope)
    assert_never(node)


def _parameter(env: Environment, name: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return env[name]
    except KeyError:
        message = f"The parameter {name} has no value."
        raise bad_request(message) from None


def _compile_name(name: str, scope: Scope) -> Evaluator:
    if name not in scope.names:
        message = f"Identifier '{name}' could not be resolved."
        raise bad_request(message)
    return lambda env: env[name]


def _compile_member(node: n.Member, scope: Scope) -> Evaluator:
    path: list[Any] = []
    owner: n.Expression = node
    while isinstance(owner, n.Member) and isinstance(owner.index, n.Literal):
        path.append(owner.index.value)
        owner = owner.owner
    if path:
        path.reverse()
        base = compile_expression(owner, scope)
        if len(path) == 1 and isinstance(path[0], str):
            name = path[0]

            def property_of(env: Environment) -> Any:  # noqa: ANN401 - JSON
                value = base(env)
                return value.get(name, UNDEFINED) if type(value) is dict else UNDEFINED

            return property_of

        def walk(env: Environment) -> Any:  # noqa: ANN401 - JSON
            value = base(env)
            for index in path:
                value = member(value, index)
            return value

        return walk
    base, index = compile_expression(node.owner, scope), compile_expression(node.index, scope)
    return lambda env: member(base(env), index(env))


def member(value: Any, index: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a property of an object or an element of an array, `UNDEFINED` where there is none."""
    if type(value) is dict and type(index) is str:
        return value.get(index, UNDEFINED)
    if type(value) is list and type(index) is int and 0 <= index < len(value):
        return value[index]
    return UNDEFINED


def _compile_unary(operator: str, operand: Evaluator) -> Evaluator:
    if operator == "NOT":

        def negate(env: Environment) -> Any:  # noqa: ANN401 - JSON
            value = operand(env)
            return not value if type(value) is bool else UNDEFINED

        return negate
    sign = _SIGNS[operator]

    def apply(env: Environment) -> Any:  # noqa: ANN401 - JSON
        value = operand(env)
        return sign(value) if type_rank(value) == 3 else UNDEFINED  # noqa: PLR2004 - a number

    return apply


def _compile_binary(operator: str, left: Evaluator, right: Evaluator) -> Evaluator:  # noqa: C901 - a dispatch
    if operator == "AND":

        def both(env: Environment) -> Any:  # noqa: ANN401 - JSON
            first = left(env)
            if first is False:
                return False
            second = right(env)
            if second is False:
                return False
            return True if first is True and second is True else UNDEFINED

        return both
    if operator == "OR":

        def either(env: Environment) -> Any:  # noqa: ANN401 - JSON
            first = left(env)
            if first is True:
                return True
            second = right(env)
            if second is True:
                return True
            return False if first is False and second is False else UNDEFINED

        return either
    if operator == "??":

        def coalesce(env: Environment) -> Any:  # noqa: ANN401 - JSON
            first = left(env)
            return right(env) if first is UNDEFINED else first

        return coalesce
    if operator in {"=", "!="}:
        wanted = operator == "="

        def same(env: Environment) -> Any:  # noqa: ANN401 - JSON
            first, second = left(env), right(env)
            if first is UNDEFINED or second is UNDEFINED:
                return UNDEFINED
            return equal(first, second) is wanted

        return same
    if operator in {"<", "<=", ">", ">="}:
        return compare_operator(operator, left, right)
    arithmetic = ARITHMETIC[operator]
    return lambda env: arithmetic(left(env), right(env))


def _compile_in(value: Evaluator, choices: list[Evaluator]) -> Evaluator:
    def contained(env: Environment) -> Any:  # noqa: ANN401 - JSON
        wanted = value(env)
        if wanted is UNDEFINED:
            return UNDEFINED
        return any((c := choice(env)) is not UNDEFINED and equal(wanted, c) for choice in choices)

    return contained


@lru_cache(maxsize=512)
def like_pattern(pattern: str, escape: str | None) -> re.Pattern[str]:
    """Return the regular expression of a LIKE pattern."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if escape and char == escape and position < len(pattern):
            out.append(re.escape(pattern[position]))
            position += 1
        elif char == "%":
            # Two in a row mean the same as one, and would make the match exponential.
            if not out or out[-1] != ".*":
                out.append(".*")
        elif char == "_":
            out.append(".")
        elif char == "[" and "]" in pattern[position + 1 :]:
            end = pattern.index("]", position + 1)
            body = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[{body}]")
            position = end + 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as error:
        message = f"The LIKE pattern {pattern!r} is not valid."
        raise bad_request(message) from error


def _compile_like(node: n.Like, scope: Scope) -> Evaluator:
    value, pattern = compile_expression(node.value, scope), compile_expression(node.pattern, scope)
    escape = compile_expression(node.escape, scope) if node.escape is not None else None

    def matches(env: Environment) -> Any:  # noqa: ANN401 - JSON
        text, wanted = value(env), pattern(env)
        if type(text) is not str or type(wanted) is not str:
            return UNDEFINED
        mark = escape(env) if escape is not None else None
        return like_pattern(wanted, mark).fullmatch(text) is not None

    return matches


def _compile_call(name: str, arguments: tuple[n.Expression, ...], scope: Scope) -> Evaluator:
    if name in AGGREGATES:
        if scope.aggregates is None or len(arguments) != 1:
            message = f"The aggregate {name} takes one argument and is only allowed in SELECT."
            raise bad_request(message)
        slot = f"#{len(scope.aggregates)}"
        scope.aggregates.append((name, compile_expression(arguments[0], scope.without_aggregates())))
        return lambda env: env[slot]
    function = FUNCTIONS.get(name)
    if function is None:
        message = f"'{name}' is not a recognized built-in function name."
        raise bad_request(message)
    if not function.minimum <= len(arguments) <= function.maximum:
        message = f"The {name} function does not take {len(arguments)} argument(s)."
        raise bad_request(message)
    call = function.call
    compiled = [compile_expression(argument, scope) for argument in arguments]
    if len(compiled) == 1:
        only = compiled[0]
        return lambda env: call(only(env))
    return lambda env: call(*[argument(env) for argument in compiled])


def _compile_subquery(kind: str, query: n.Query, scope: Scope) -> Evaluator:
    run = scope.subquery(query, scope)
    if kind == "EXISTS":
        return lambda env: bool(run(env))
    if kind == "ARRAY":
        return run

    def scalar(env: Environment) -> Any:  # noqa: ANN401 - JSON
        rows = run(env)
        if len(rows) > 1:
            raise bad_request("A scalar subquery returned more than one value.")
        return rows[0] if rows else UNDEFINED

    return scalar
