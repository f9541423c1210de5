"""Random expressions: what a query computes against a plain reading of the documented rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.local.cosmos.sql.evaluate import CONTEXT
from core.local.cosmos.sql.program import compile_query
from core.local.cosmos.sql.signature import Context
from core.local.cosmos.sql.unparse import query_text
from tests.local_cosmos.model_expressions import (
    ARITY,
    DOCUMENT,
    LITERALS,
    PATHS,
    Tree,
    U,
    expected,
    same,
    text,
)

BINARY = [
    "AND",
    "OR",
    "??",
    "||",
    "=",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "&",
    "|",
    "^",
    "<<",
    ">>",
    ">>>",
]


def _grown(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.tuples(st.sampled_from(BINARY), inner, inner),
        st.tuples(st.sampled_from(["NOT", "-", "+", "~"]), inner),
        st.tuples(st.sampled_from(["?", "BETWEEN", "IN"]), inner, inner, inner),
        st.tuples(st.sampled_from(["array", "object"]), inner, inner),
        st.tuples(st.just("element"), st.sampled_from([("path", "l"), ("path", "o"), ("path", "missing")]), inner),
        st.sampled_from(sorted(ARITY)).flatmap(
            lambda name: st.tuples(st.just("call"), st.just(name), *[inner] * ARITY[name])
        ),
    )


LEAVES = st.one_of(st.tuples(st.just("literal"), LITERALS), st.tuples(st.just("path"), st.sampled_from(PATHS)))
EXPRESSIONS = st.recursive(LEAVES, _grown, max_leaves=12)


@settings(max_examples=40, deadline=None)
@given(trees=st.lists(EXPRESSIONS, min_size=1, max_size=6))
def test_an_expression_has_the_value_that_the_documented_rules_give_it(trees: list[Tree]) -> None:
    fields = ", ".join(f"'{at}': {text(tree)}" for at, tree in enumerate(trees))
    values = {str(at): value for at, tree in enumerate(trees) if (value := expected(tree)) is not U}
    program = compile_query(f"SELECT VALUE {{{fields}}} FROM c")
    # What is written back, as it is for the partitions of a cross-partition query, means the same.
    for computed in (program, compile_query(query_text(program.query))):
        [row] = computed.rows({CONTEXT: Context(0)}, [DOCUMENT])
        assert same(row, values)
