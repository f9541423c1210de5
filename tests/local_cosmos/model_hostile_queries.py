"""Draws queries with every function and operator on values that nobody expects."""

from __future__ import annotations

from hypothesis import strategies as st

from core.local.cosmos.sql import functions as built_in
from tests.local_cosmos.model_hostile_json import dumped, json_values

atoms = st.sampled_from(
    [
        "c", "c.id", "c.n", "c.text", "c.list", "c.object", "c.missing", "c.list[0]", "c['n']", "c[1]", "@p", "@q",
        "null",
        "true", "false", "undefined", "0", "-1", "1", "3", "1.5", "63", "1e308", "1e999", "9223372036854775807",
        "18446744073709551615", "9" * 400, "0x7fffffffffffffffffff", "''", "'a'", "'%a%'", "'(a+)+$'", "'[[a-'",
        "'[a--z]'",
        "'\\ud800'", "'\\u0000'", "'🐙'", "'i'", "'2020-01-01T00:00:00.0000000Z'", "'9999-12-31T23:59:59.9999999Z'",
        "'dd'",
        "'yyyy'", "'year'", "'99999999999999999999'", "'1e999'", "'[1,2]'", "'{'", "'" + "a" * 500 + "'", "[]",
        "{}", "[1,[2]]",
        "{'a':1}", "REPLICATE('a', 1000)", "@missing", "UNKNOWN(1)", "udf.f(1)", "COUNT(1)", "MAX(c.n)",
    ]
)  # fmt: skip
operators = st.sampled_from(
    ["+", "-", "*", "/", "%", "|", "&", "^", "<<", ">>", ">>>", "||", "=", "!=", "<>", "<", ">=", "AND", "OR", "??"]
)
FUNCTIONS = sorted(built_in._FUNCTIONS)
functions = st.sampled_from(FUNCTIONS)


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    call = st.builds(lambda name, found: f"{name}({', '.join(found)})", functions, st.lists(inner, max_size=4))
    return st.one_of(
        call,
        call,
        st.builds(lambda left, sign, right: f"({left} {sign} {right})", inner, operators, inner),
        st.builds(lambda sign, part: f"{sign}{part}", st.sampled_from(["-", "~", "NOT ", "+"]), inner),
        st.builds(lambda found: f"[{', '.join(found)}]", st.lists(inner, max_size=3)),
        st.builds(lambda part: f"{{'a': {part}}}", inner),
        st.builds(lambda a, b, c: f"({a} ? {b} : {c})", inner, inner, inner),
        st.builds(lambda a, b, c: f"({a} BETWEEN {b} AND {c})", inner, inner, inner),
        st.builds(lambda a, found: f"({a} IN ({', '.join(found)}))", inner, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda a, b: f"({a} LIKE {b})", inner, inner),
        st.builds(lambda a, b: f"({a} LIKE {b} ESCAPE '!')", inner, inner),
        st.builds(lambda a, b: f"{a}[{b}]", inner, inner),
        st.builds(lambda a: f"ARRAY(SELECT VALUE x FROM x IN {a})", inner),
        st.builds(lambda a: f"EXISTS(SELECT VALUE x FROM x IN c.list WHERE {a})", inner),
        st.builds(lambda a: f"(SELECT VALUE {a})", inner),
    )


expressions = st.recursive(atoms, _larger, max_leaves=6)
_clauses = {
    "distinct": ["", "", "DISTINCT "],
    "top": ["", "", "TOP 1 ", "TOP @p ", "TOP 99999999999999999999 ", "TOP -1 "],
    "limit": ["", "", " OFFSET 0 LIMIT 1", " OFFSET @p LIMIT @q", " OFFSET 9999999999 LIMIT 99999999999999999999"],
    "source": ["c", "c", "c JOIN x IN c.list", "x IN c.list", "c JOIN (SELECT VALUE 1)", "r", "c.object c", "c JOIN c"],
}


def _query(*parts: str) -> str:
    distinct, top, select, source, where, group, order, limit = parts
    return f"SELECT {distinct}{top}{select} FROM {source}{where}{group}{order}{limit}"


whole_queries = st.builds(
    _query,
    st.sampled_from(_clauses["distinct"]),
    st.sampled_from(_clauses["top"]),
    st.just("*") | expressions.map(lambda e: f"VALUE {e}") | expressions.map(lambda e: f"{e} AS e, c.id"),
    st.sampled_from(_clauses["source"]),
    st.just("") | expressions.map(lambda e: f" WHERE {e}"),
    st.just("") | expressions.map(lambda e: f" GROUP BY {e}"),
    st.just("") | expressions.map(lambda e: f" ORDER BY {e} DESC, c.id"),
    st.sampled_from(_clauses["limit"]),
)
REPEATED = [
    ("SELECT VALUE ", "(", "1", ")", ""),
    ("SELECT VALUE ", "[", "1", "]", ""),
    ("SELECT VALUE ", "{'a':", "1", "}", ""),
    ("SELECT VALUE ", "ABS(", "1", ")", ""),
    ("SELECT VALUE ", "-", "1", "", ""),
    ("SELECT VALUE ", "NOT ", "true", "", ""),
    ("SELECT VALUE ", "(SELECT VALUE ", "1", ")", ""),
    ("SELECT VALUE 1", " + 1", "", "", ""),
    ("SELECT * FROM c WHERE c.n IN (1", ", 1", ")", "", ""),
    ("SELECT * FROM c WHERE c.text = 'a'", " OR c.text = 'b'", "", "", ""),
    ("SELECT * FROM c WHERE c", ".a", " = 1", "", ""),
    ("SELECT * FROM c WHERE c", "[0]", " = 1", "", ""),
    ("SELECT VALUE 1", " ? 1 : 1", "", "", ""),
    ("SELECT VALUE '", "\\u0041", "'", "", ""),
    ("SELECT VALUE '", "%", "", "", ""),
    ("SELECT * FROM c WHERE c.text LIKE '", "%a", "%b'", "", ""),
    ("SELECT * FROM c WHERE REGEXMATCH(c.text, '", "(a*)*", "b')", "", ""),
    ("SELECT VALUE REPLICATE(", "REPLICATE(", "c.text", ", 1000)", ", 1000)"),
    ("SELECT c.id", ", c.id", " FROM c", "", ""),
    ("SELECT * FROM c ORDER BY c.id", ", c.id", "", "", ""),
    ("SELECT VALUE 1 FROM c", " JOIN x IN c.list", "", "", ""),
    ("", "SELECT ", "", "", ""),
]
repeated = st.builds(
    lambda shape, n: f"{shape[0]}{shape[1] * n}{shape[2]}{shape[3] * n}{shape[4]}",
    st.sampled_from(REPEATED),
    st.sampled_from([2, 10, 60, 200, 1000, 5000, 60_000]),
)


def _bent(text: str, at: int, length: int, put: str) -> str:
    at %= len(text) + 1
    return text[:at] + put + text[at + length :]


bent_queries = st.builds(
    _bent,
    whole_queries,
    st.integers(0, 400),
    st.integers(0, 5),
    st.sampled_from(["", "'", '"', "(", ")", "[", "@", "\\", "--", "/*", "\x00", "🐙", ".", ",", "1e", "0x", "SELECT"]),
)
texts = whole_queries | whole_queries | bent_queries | repeated
PARAMETERS = [{"name": "@p", "value": 1}, {"name": "@q", "value": "(a+)+$"}]
queries = texts.map(lambda text: dumped({"query": text, "parameters": PARAMETERS})) | st.builds(
    lambda text, value: dumped({"query": text, "parameters": [{"name": "@p", "value": value}]}), texts, json_values
)
