"""Every function and operator of queries answers whatever it is given, with JSON, at once."""

from __future__ import annotations

import itertools
from random import Random
from time import thread_time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.operations.queries import filter_resources
from core.local.cosmos.sql.program import compile_query
from core.local.cosmos.values import UNDEFINED
from tests.local_cosmos.model_hostile_queries import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES: list[Any] = [
    UNDEFINED, None, True, 0, -1, 3, 63, 1.5, -0.5, 400, -400, 1e15, 1e21, 1e308, -1e308, 5e-324, 2**53, 2**63 - 1,
    -(2**63), 2**64 - 1, "", "a", "i", "(a+)+$", "[[a-", "[a--z]", "[a&&b]", "%a%", "a" * 40 + "!", "1e999",
    "[1,2]", "{",
    "2020-01-01T00:00:00.0000000Z", "9999-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00.0000000Z", "dd", "yyyy", "ns",
    "🐙", "\x00", "٣", "²", [], [1, [2], {}], ["a", None], {}, {"a": 1},
]  # fmt: skip
OPERATORS = ["+", "-", "*", "/", "%", "|", "&", "^", "<<", ">>", ">>>", "||"]
OPERATORS += ["=", "!=", "<", ">=", "AND", "OR", "??", "LIKE"]
SHAPES = [
    *[f"@0 {operator} @1" for operator in OPERATORS],
    *[f"{sign}@0" for sign in ("-", "~", "NOT ", "+")],
    "@0[@1]",
    "@0 IN (@1, @2)",
    "@0 BETWEEN @1 AND @2",
    "@0 ? @1 : @2",
    "@0 LIKE @1 ESCAPE @2",
    *[f"{name}({', '.join(f'@{i}' for i in range(count))})" for name in FUNCTIONS for count in range(5)],
]


def arguments(count: int, random: Random) -> Iterator[tuple[Any, ...]]:
    """Return all arguments of one, and many of several."""
    if count < 2:
        yield from itertools.product(VALUES, repeat=count)
    else:
        yield from (tuple(random.choice(VALUES) for _ in range(count)) for _ in range(60))


@pytest.mark.filterwarnings("error")
def test_no_function_or_operator_fails_on_any_value() -> None:
    random = Random(1)
    for shape in SHAPES:
        count = max((int(found[0]) + 1 for found in shape.split("@")[1:]), default=0)
        text = f"SELECT VALUE {shape} FROM c"
        try:
            compile_query(text)
        except CosmosError:  # it does not take so many arguments
            continue
        for given in arguments(count, random):
            parameters = [{"name": f"@{index}", "value": value} for index, value in enumerate(given)]
            began = thread_time()
            try:
                orjson.dumps(filter_resources({"query": text, "parameters": parameters}, [{}]))
            except CosmosError as error:
                assert error.status == 400  # noqa: PT017 - a refusal is one of two good answers
            except Exception as error:
                error.add_note(f"{shape} of {given!r:.300}")
                raise
            assert thread_time() - began < 3, (shape, given)
