"""Compiles expressions to closures over an environment of aliases and parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql import nodes as n
from core.local.cosmos.sql.aggregates import AGGREGATES
from core.local.cosmos.sql.compare import equal, sort_key
from core.local.cosmos.sql.functions import function_named
from core.local.cosmos.sql.like import like_pattern
from core.local.cosmos.sql.operators import ARITHMETIC, compare_operator, signed
from core.local.cosmos.sql.unparse import expression_text
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.local.cosmos.sql.signature import Context

    Environment = dict[str, Any]
    Evaluator = Callable[[Environment], Any]
    SubqueryCompiler = Callable[[n.Query, "Scope"], Callable[[Environment], list[Any]]]

CONTEXT = "$context"


class Scope:
    """What a compiler knows: the names that are bound, the parameters and the aggregates met so far.

    `aggregates` is None where aggregates are not allowed (WHERE, FROM). With `groups` nothing but their expressions
    may be read from the rows.
    """

    def __init__(self, names: frozenset[str], parameters: set[str], subquery: SubqueryCompiler) -> None:
        self.names = names
        self.parameters = parameters
        self.subquery = subquery
        self.aggregates: list[tuple[str, Evaluator]] | None = None
        self.groups: frozenset[n.Expression] | None = None

    def without_aggregates(self) -> Scope:
        """Return the same scope for a part of the query in which aggregates are not allowed."""
        return Scope(self.names, self.parameters, self.subquery)


def compile_expression(node: n.Expression, scope: Scope) -> Evaluator:  # noqa: C901, PLR0911, PLR0912 - a dispatch
    """Return a function from an environment to the value of an expression.

    Raises:
        CosmosError: 400 for an unknown name or function.
    """
    if scope.groups is not None:
        if node in scope.groups:
            return compile_expression(node, scope.without_aggregates())
        _check_grouped(node, scope)
    match node:
        case n.Literal(value):
            return lambda _: value
        case n.Parameter(name):
            scope.parameters.add(name)
            return lambda env: env[name]
        case n.Name(name):
            return _compile_name(name, scope)
        case n.Member():
            return _compile_member(node, scope)
        case n.Unary(operator, operand):
            return _compile_unary(operator, compile_expression(operand, scope))
        case n.Binary("AND" | "OR" as operator):
            return _compile_junction(operator, [compile_expression(part, scope) for part in n.chain(node)])
        case n.Binary(operator, left, right):
            return _compile_binary(operator, compile_expression(left, scope), compile_expression(right, scope))
        case n.Between(value, low, high):
            above = _compile_binary(">=", compile_expression(value, scope), compile_expression(low, scope))
            below = _compile_binary("<=", compile_expression(value, scope), compile_expression(high, scope))
            return _compile_junction("AND", [above, below])
        case n.In(value, choices):
            return _compile_in(compile_expression(value, scope), choices, scope)
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


def _check_grouped(node: n.Expression, scope: Scope) -> None:
    path: n.Expression = node
    while isinstance(path, n.Member):
        path = path.owner
    if isinstance(path, n.Name) and path.name in scope.names:
        message = (
            f"Property reference '{expression_text(node)}' is invalid in the select list because it is not contained "
            "in either an aggregate function or the GROUP BY clause."
        )
        raise bad_request(message)


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
    if type(value) is list and (type(index) is int or (type(index) is float and index.is_integer())):
        return value[int(index)] if 0 <= index < len(value) else UNDEFINED
    return UNDEFINED


def _compile_unary(operator: str, operand: Evaluator) -> Evaluator:
    if operator == "NOT":

        def negate(env: Environment) -> Any:  # noqa: ANN401 - JSON
            value = operand(env)
            return not value if type(value) is bool else UNDEFINED

        return negate
    return lambda env: signed(operator, operand(env))


def _compile_junction(operator: str, parts: list[Evaluator]) -> Evaluator:
    deciding = operator == "OR"

    def joined(env: Environment) -> Any:  # noqa: ANN401 - JSON
        result: Any = not deciding
        for part in parts:
            value = part(env)
            if value is deciding:
                return deciding
            if type(value) is not bool:
                result = UNDEFINED
        return result

    return joined


def _compile_binary(operator: str, left: Evaluator, right: Evaluator) -> Evaluator:
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
            return _equal(env, first, second) is wanted

        return same
    if operator in {"<", "<=", ">", ">="}:
        return compare_operator(operator, left, right)
    arithmetic = ARITHMETIC[operator]
    return lambda env: arithmetic(left(env), right(env))


def _equal(env: Environment, left: object, right: object) -> bool:
    if type(left) is list or type(left) is dict:
        env[CONTEXT].go_on()
    return equal(left, right)


def _compile_in(value: Evaluator, choices: tuple[n.Expression, ...], scope: Scope) -> Evaluator:
    constants = {sort_key(c.value) for c in choices if isinstance(c, n.Literal) and c.value is not UNDEFINED}
    others = [compile_expression(choice, scope) for choice in choices if not isinstance(choice, n.Literal)]

    def contained(env: Environment) -> Any:  # noqa: ANN401 - JSON
        wanted = value(env)
        if wanted is UNDEFINED:
            return UNDEFINED
        # An array or object is not equal to a constant, which is neither, but might be costly to make a key of.
        if type(wanted) is not list and type(wanted) is not dict and sort_key(wanted) in constants:
            return True
        return any((c := choice(env)) is not UNDEFINED and _equal(env, wanted, c) for choice in others)

    return contained


def _compile_like(node: n.Like, scope: Scope) -> Evaluator:
    value, pattern = compile_expression(node.value, scope), compile_expression(node.pattern, scope)
    escape = compile_expression(node.escape, scope) if node.escape is not None else None

    def matches(env: Environment) -> Any:  # noqa: ANN401 - JSON
        text, wanted, mark = value(env), pattern(env), None if escape is None else escape(env)
        if type(text) is not str or type(wanted) is not str or (escape is not None and type(mark) is not str):
            return UNDEFINED
        context: Context = env[CONTEXT]
        return context.matches(like_pattern(wanted, mark).fullmatch, text, wanted)

    return matches


def _compile_aggregate(name: str, arguments: tuple[n.Expression, ...], scope: Scope) -> Evaluator:
    if scope.aggregates is None or len(arguments) != 1:
        message = f"The aggregate {name} takes one argument and is only allowed in SELECT, outside other aggregates."
        raise bad_request(message)
    if isinstance(arguments[0], n.Subquery):
        raise bad_request("Cannot perform an aggregate function on an expression containing a subquery.")
    slot = f"#{len(scope.aggregates)}"
    scope.aggregates.append((name, compile_expression(arguments[0], scope.without_aggregates())))
    return lambda env: env[slot]


def _compile_call(name: str, arguments: tuple[n.Expression, ...], scope: Scope) -> Evaluator:
    if name in AGGREGATES:
        return _compile_aggregate(name, arguments, scope)
    function = function_named(name, len(arguments))
    call = function.call
    compiled = [compile_expression(argument, scope) for argument in arguments]
    if function.contextual:
        return lambda env: call(env[CONTEXT], *[argument(env) for argument in compiled])

    def called(env: Environment) -> Any:  # noqa: ANN401 - JSON
        given = [argument(env) for argument in compiled]
        env[CONTEXT].go_on()
        return call(*given)

    return called


def _compile_subquery(kind: str, query: n.Query, scope: Scope) -> Evaluator:
    run = scope.subquery(query, scope)
    if kind == "EXISTS":
        return lambda env: bool(run(env))
    if kind in {"ARRAY", "ROWS"}:
        return run

    def scalar(env: Environment) -> Any:  # noqa: ANN401 - JSON
        rows = run(env)
        if len(rows) > 1:
            raise bad_request("A scalar subquery returned more than one value.")
        return rows[0] if rows else UNDEFINED

    return scalar
