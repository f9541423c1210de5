"""The built-in functions: every expected value stands in the public documentation of the query language."""

from __future__ import annotations

import time
from typing import Any

import pytest

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.sql.evaluate import CONTEXT
from core.local.cosmos.sql.program import compile_query
from core.local.cosmos.sql.signature import Context
from core.local.cosmos.values import UNDEFINED

MARCH = 16_780_000_000_000_000  # ticks


def value_of(expression: str) -> Any:
    """Compute an expression of constants; `UNDEFINED` where the query has no row."""
    rows = compile_query(f"SELECT VALUE {expression}").rows({CONTEXT: Context(MARCH)}, [])
    return rows[0] if rows else UNDEFINED


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # Arrays.
        ("ARRAY_CONTAINS_ANY([1, 2, 3, 4], 1, undefined)", True),
        ("ARRAY_CONTAINS_ANY([1, 2, 3, 4], 5, undefined)", UNDEFINED),
        ("ARRAY_CONTAINS_ANY([1, true, '3', [1,2,3]], 1, true, '3', [1,2,3])", True),
        ("ARRAY_CONTAINS_ANY([], 1, 2, 3)", False),
        ("ARRAY_CONTAINS_ALL([1, 2, 3, 4], 1, undefined)", UNDEFINED),
        ("ARRAY_CONTAINS_ALL([1, 2, 3, 4], 5, undefined)", False),
        ("ARRAY_CONTAINS_ALL([1, 2, 3, 4], 2, 3, 4, 5)", False),
        ("ARRAY_SLICE(['A', 'B', 'C'], -2)", ["B", "C"]),
        ("ARRAY_SLICE(['A', 'B', 'C'], -2, 1)", ["B"]),
        ("ARRAY_SLICE(['A', 'B', 'C'], 1, 12)", ["B", "C"]),
        ("ARRAY_SLICE(['A', 'B', 'C'], 0.5)", UNDEFINED),
        ("ARRAY_MEDIAN([1, 2, 3, 4])", 2.5),
        ("ARRAY_MEDIAN([1, -2.7, 3, -4, undefined])", -0.8500000000000001),
        ("ARRAY_MEDIAN([12, 'abc', true, false, null, undefined])", UNDEFINED),
        ("ARRAY_MAX([12, 'abc', true, false, null, undefined])", "abc"),
        ("ARRAY_MIN([12, 'abc', true, false, null, undefined])", None),
        ("ARRAY_SUM([1, 'a'])", UNDEFINED),
        ("CHOOSE(0, 'Mt.', 'Hood')", UNDEFINED),
        ("CHOOSE(2, 'Mt.', 'Hood')", "Hood"),
        ("CHOOSE(3, 'Mt.', 'Hood')", UNDEFINED),
        ("SetUnion([1, 2, 'A', 'B'], ['A', 1])", [1, 2, "A", "B"]),
        ("SetUnion([1, 2, 3, 4], [1, 1, 1, 1])", [1, 2, 3, 4]),
        ("SetDifference([1, 1, 2, 3], [3, 4])", [1, 2]),
        ("SetEqual([1, 2, 2], [2, 1.0])", True),
        ("ObjectToArray({'a': '12345'})", [{"k": "a", "v": "12345"}]),
        ("ObjectToArray({'a': '12345'}, 'name', 'value')", [{"name": "a", "value": "12345"}]),
        # Strings.
        ("SUBSTRING('AdventureWorks', 9, 5)", "Works"),
        ("SUBSTRING('AdventureWorks', 0, -1)", ""),
        ("SUBSTRING('AdventureWorks', -3, 5)", ""),
        ("SUBSTRING('AdventureWorks', 9, 100)", "Works"),
        ("LEFT('AdventureWorks', -1)", ""),
        ("RIGHT('AdventureWorks', 100)", "AdventureWorks"),
        ("RIGHT('AdventureWorks', 0)", ""),
        ("INDEX_OF('AdventureWorks', 'Works', 5)", 9),
        ("INDEX_OF('AdventureWorks', 'Adventure', 5)", -1),
        ("LASTINDEXOF('abcabc', 'c')", 5),
        ("LASTINDEXOF('abcabc', 'c', 4)", 2),
        ("RTRIM('AdventureWorks', 'Works')", "Adventure"),
        ("RTRIM('AdventureWorks', 'Adventure')", "AdventureWorks"),
        ("RTRIM('AdventureWorks', '')", "AdventureWorks"),
        ("TRIM('-_-AdventureWorks-_-', '-_')", "AdventureWorks"),
        ("TRIM('-- AdventureWorks --', '-')", " AdventureWorks "),
        ("REPLICATE('Cosmic', 3)", "CosmicCosmicCosmic"),
        ("REPLICATE('ab', 5001)", UNDEFINED),
        ("REPLICATE('ab', -1)", UNDEFINED),
        ("LENGTH(REPLICATE('ab', 5000))", 10_000),
        ("REPLACE('abc', '', 'x')", UNDEFINED),
        ("CONTAINS_ANY_CI('abcdef', 'XY', 'BC')", True),
        ("CONTAINS_ANY_CS('abcdef', 'XY', undefined)", UNDEFINED),
        ("CONTAINS_ALL_CS('abcdef', 'BC', undefined)", False),
        ("StringJoin(['6', '7', '4', '3'], 'A')", "6A7A4A3"),
        ("StringJoin(['Iropa', 'Bike'], undefined)", UNDEFINED),
        ("TOSTRING({ 'department': 'Bicycles' })", '{"department":"Bicycles"}'),
        ("TOSTRING([ 1, 2, 3 ])", "[1,2,3]"),
        ("TOSTRING(0.1234)", "0.1234"),
        ("TOSTRING(undefined)", UNDEFINED),
        ("STRINGTONUMBER('   60   ')", 60),
        ("STRINGTONUMBER('-1.79769e+308')", -1.79769e308),
        ("STRINGTONUMBER('Hello')", UNDEFINED),
        ("STRINGTONUMBER('1e999')", UNDEFINED),
        ("STRINGTOBOOLEAN('  false  ')", False),
        ("STRINGTOBOOLEAN(true)", UNDEFINED),
        ("STRINGTONULL('  null')", None),
        ("STRINGTONULL('NULL')", UNDEFINED),
        ("STRINGTOARRAY('[ [ \"coats\" ], 76, false, null ]')", [["coats"], 76, False, None]),
        ('STRINGTOARRAY("[ \'coats\' ]")', UNDEFINED),
        ("REGEXMATCH('abcd', 'ABC')", False),
        ("REGEXMATCH('abcd', 'aB c', 'ix')", True),
        ("REGEXMATCH('salt3824908', 'salt{1}')", True),
        # Numbers.
        ("NUMBERBIN(37.752, -100)", 100),
        ("NUMBERBIN(37.752, 0)", UNDEFINED),
        ("NUMBERBIN(37.752, 0.1)", 37.7),
        ("ROUND(2.5)", 3),
        ("ROUND(-6.5)", -7),
        ("ROUND(0.49999999999999994)", 0),
        ("INTADD(20, 0.10)", UNDEFINED),
        ("INTDIV(10, -2)", -5),
        ("INTDIV(9007199254740993, 1)", 9007199254740993),
        ("INTDIV(10, 0)", UNDEFINED),
        ("INTMOD(12, -5)", 2),
        ("INTMOD(-12, -5)", -2),
        ("INTMOD(12, 0.2)", UNDEFINED),
        ("INTBITLEFTSHIFT(16, 4)", 256),
        ("INTBITLEFTSHIFT(16, 0.4)", UNDEFINED),
        ("IS_INTEGER(9223372036854775807)", True),
        ("IS_INTEGER(18446744073709551615)", False),
        ("IS_INTEGER(3454.123)", False),
        ("IS_FINITE_NUMBER(8.9 / 0.0)", False),
        ("0x1F", 31),
        # The operators that work on 32 bits, as in JavaScript.
        ("100 >> 2", 25),
        ("100 >>> 0", 100),
        ("-1 >>> 0", 4294967295),
        ("100 ^ 1000", 908),
        ("2147483648 | 0", -2147483648),
        ("6442450944 | 0", -2147483648),
        ("9007199254740993 + 0", 9007199254740992),
        ("-9007199254740993 = -9007199254740993.0", False),
        ("-true", UNDEFINED),
        # Dates.
        ("DATETIMEBIN('2021-01-08T18:35:00.0000000', 'dd')", "2021-01-08T00:00:00.0000000Z"),
        ("DATETIMEBIN('2021-01-08T18:35:00.0000000', 'hh', 5)", "2021-01-08T15:00:00.0000000Z"),
        ("DATETIMEBIN('2021-01-08T18:35:00.0000000', 'dd', 7)", "2021-01-07T00:00:00.0000000Z"),
        ("DATETIMEBIN('2021-01-08T18:35:00.0000000', 'dd', 7, '1601-01-01T00:00:00.0000000')",
         "2021-01-04T00:00:00.0000000Z"),
        ("DATETIMEBIN('2021-01-08T18:35:00.0000000', 'mm')", UNDEFINED),
        ("DATETIMEDIFF('mm', '2019-02-04T16:00:00.0000000', '2018-03-05T05:00:00.0000000')", -11),
        ("DATETIMEDIFF('dd', '2019-02-04T16:00:00.0000000', '2018-03-05T05:00:00.0000000')", -336),
        ("DATETIMEDIFF('hh', '2018-03-05T05:00:00.0000000', '2019-02-04T16:00:00.0000000')", 8075),
        ("DATETIMEPART('mcs', '2016-05-29T08:30:00.1301617')", 130161),
        ("DATETIMEPART('ns', '2016-05-29T08:30:00.1301617')", 130161700),
        ("DATETIMEADD('ss', 5 * -5, '2020-07-03T00:00:00.0000000')", "2020-07-02T23:59:35.0000000Z"),
        ("DATETIMEADD('ss', 0.5, '2020-07-03T00:00:00.0000000')", UNDEFINED),
        ("DATETIMEFROMPARTS(2017, 4, 20, 13, 15, 20, 3456789)", "2017-04-20T13:15:20.3456789Z"),
        ("DATETIMEFROMPARTS(-2000, -1, -1)", UNDEFINED),
        ("DATETIMEFROMPARTS(33, 1, 1)", "0033-01-01T00:00:00.0000000Z"),
        ("TIMESTAMPTODATETIME(1594227912345)", "2020-07-08T17:05:12.3450000Z"),
        ("MONTH('2016-05-29')", 5),
        ("IS_DATETIME('2023-03-06 15:29:59.1234567Z')", True),
        ("IS_DATETIME('2023-03-06Z')", True),
        ("IS_DATETIME('2023-03-06x15:29:59')", False),
        ("AGO('hh', 1) < NOW()", True),
        # LIKE, whose wildcards stand for themselves in brackets.
        ("'20-30%' LIKE '20-30[%]'", True),
        ("'20-30x' LIKE '20-30[%]'", False),
        ("'xSOzPSx' LIKE '%SO[t-z]PS%'", True),
        ("'xSOaPSx' LIKE '%SO[^abc]PS%'", False),
        ("'[' LIKE '[[]'", True),
        ("']' LIKE ']'", True),
        ("'20% off' LIKE '%20^%%' ESCAPE '^'", True),
        ("'a\\nb' LIKE 'a_b'", True),
        ("1 LIKE 'a'", UNDEFINED),
    ],
)  # fmt: skip
def test_a_function_has_its_documented_value(expression: str, value: Any) -> None:
    found = value_of(expression)
    assert type(found) is type(value) or {type(found), type(value)} == {int, float}
    assert found == value


def test_the_current_time_is_one_throughout_a_query() -> None:
    names = ["GetCurrentTimestamp", "GetCurrentTimestampStatic"]
    rows = compile_query(f"SELECT {', '.join(f'{name}() AS {name}' for name in names)} FROM c").rows(
        {CONTEXT: Context(MARCH)}, [{}] * 3
    )
    assert rows == [dict.fromkeys(names, MARCH // 10_000)] * 3


@pytest.mark.parametrize("pattern", ["(a|aa)+$", "^((a|aa)+)+$"])
def test_a_catastrophic_regular_expression_is_refused_by_name(pattern: str) -> None:
    started = time.monotonic()
    documents = [{"s": "a" * 60 + "!"}] * 1000
    with pytest.raises(CosmosError, match="takes too long") as caught:
        compile_query(f"SELECT * FROM c WHERE REGEXMATCH(c.s, '{pattern}')").rows({CONTEXT: Context(0)}, documents)
    assert caught.value.status == 400
    assert time.monotonic() - started < 10


def test_like_takes_linear_time() -> None:
    started = time.monotonic()
    assert value_of(f"'{'a' * 20_000}' LIKE '{'%a' * 500}b'") is False
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("ST_DISTANCE(1, 2)", "ST_DISTANCE"),
        ("VectorDistance(1, 2)", "VECTORDISTANCE"),
        ("FullTextContains('a', 'b')", "FULLTEXTCONTAINS"),
        ("nosuch(1)", "NOSUCH"),
        ("ROUND(1, 2)", "ROUND"),
        ("REGEXMATCH('a', 'a', 'q')", "'q'"),
        ("REGEXMATCH('a', '(')", r"'\('"),
        ("udf.twice(1)", "user-defined function twice"),
        ("'a\\q'", "line 1, column 14"),
        ("'a\n'", "line 1, column 14"),
        ("1 LIKE 'a' ESCAPE 'xy'", None),
        ("+ NOT " * 2000 + "1", "nested too deeply"),
        ("1 " + "+ 1 " * 5000, "nested too deeply"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(expression: str, named: str | None) -> None:
    if named is None:
        assert value_of(expression) is UNDEFINED
        return
    with pytest.raises(CosmosError, match=named) as caught:
        value_of(expression)
    assert caught.value.status == 400


def test_a_long_chain_of_conditions_is_no_nesting() -> None:
    chain = " OR ".join(f"c.id = '{number}'" for number in range(2000))
    assert compile_query(f"SELECT VALUE 1 FROM c WHERE {chain}").rows({CONTEXT: Context(0)}, [{"id": "1999"}]) == [1]
