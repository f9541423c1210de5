"""Cosmos SQL through the real SDK."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

from core.local.cosmos import CosmosServer
from tests.sync_sdk import sync_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from azure.cosmos.aio import ContainerProxy


DOCUMENTS: list[dict[str, Any]] = [
    {"id": "1", "pk": "a", "n": 1, "name": "Anna", "tags": ["x", "y"], "o": {"k": {"d": 1}}, "kind": "odd"},
    {"id": "2", "pk": "b", "n": 2, "name": "bob", "tags": ["y"], "o": {"k": {"d": 2}}, "none": None, "kind": "even"},
    {"id": "3", "pk": "c", "n": 3.5, "name": "Čeněk", "tags": [], "kind": "odd"},
    {"id": "4", "pk": "a", "n": 4, "name": "anna", "items": [{"q": 1, "s": "A"}, {"q": 5, "s": "B"}], "kind": "even"},
    {"id": "5", "pk": "b", "n": "five", "name": "50% _off", "flag": True, "kind": "odd"},
]


@pytest_asyncio.fixture(scope="module")
async def shared() -> AsyncIterator[CosmosServer]:
    """One server for the tests that only read."""
    async with CosmosServer() as server, CosmosClient(server.endpoint, server.key, retry_total=0) as client:
        database = await client.create_database("db")
        container = await database.create_container("items", PartitionKey("/pk"), offer_throughput=12_000)
        for document in DOCUMENTS:
            await container.create_item(document)
        yield server


@pytest_asyncio.fixture(scope="module")
async def filled(shared: CosmosServer) -> AsyncIterator[ContainerProxy]:
    """The documents in two physical partitions."""
    async with CosmosClient(shared.endpoint, shared.key, retry_total=0) as client:
        yield client.get_database_client("db").get_container_client("items")


async def ask(container: ContainerProxy, text: str, partition_key: str | None = None, **values: Any) -> list[Any]:
    parameters: Any = [{"name": f"@{name}", "value": value} for name, value in values.items()]
    where: Any = {"partition_key": partition_key} if partition_key else {}
    return [row async for row in container.query_items(text, parameters=parameters, **where)]


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ("c.n = 1", "1"),
        ("c.n != 1", "2345"),
        ("c.n > 1 AND c.n <= 3.5", "23"),
        ("NOT (c.n > 1)", "1"),
        # The published grammar binds NOT like a sign, and comparisons more tightly than concatenation.
        ("NOT c.n > 1", ""),
        ("NOT c.flag = false", "5"),
        ("c.n < 'z'", "5"),
        ("c.missing = 1 OR c.id = '3'", "3"),
        ("NOT (c.missing = 1)", ""),
        ("c.n != null AND c.id = '5'", "5"),
        ("c.tags < ['z'] OR c.o <= c.o", ""),
        ("c.missing IN (1, undefined)", ""),
        ("c.missing NOT IN (1)", ""),
        ("c.n BETWEEN 'a' AND 'z'", "5"),
        ("c.none ?? 1 = 1", "1345"),
        ("c.none <= null", "2"),
        ("c.tags[1.0] = 'y'", "1"),
        ("1", ""),
        ("NOT (c.id = 'x' AND c.missing = 1)", "12345"),
        ("NOT (c.missing = 1 AND c.id = 'x')", "12345"),
        ("c.none = null", "2"),
        ("c.flag = 1 OR c.n = true OR c.n = '1'", ""),
        ("IS_NULL(c.none)", "2"),
        ("IS_DEFINED(c.o) AND NOT IS_DEFINED(c.none)", "1"),
        ("c.o.k.d = 2", "2"),
        ('c["o"]["k"]["d"] = 1', "1"),
        ("c.tags[0] = 'y'", "2"),
        ("c.n IN (1, 2, 'five')", "125"),
        ("c.n NOT IN (1, 2)", "345"),
        ("c.n BETWEEN 2 AND 4", "234"),
        ("c.name LIKE 'a%'", "4"),
        ("c.name LIKE '_nna'", "14"),
        ("c.name NOT LIKE '%n%'", "25"),
        ("c.name LIKE '%!%%' ESCAPE '!'", "5"),
        ("c.name LIKE '[Ab]%'", "12"),
        ("LOWER(c.name) = 'anna'", "14"),
        ("UPPER(c.name) = UPPER('bOb')", "2"),
        ("STRINGEQUALS(c.name, 'ANNA', true)", "14"),
        ("STRINGEQUALS(c.name, 'anna')", "4"),
        ("CONTAINS(c.name, 'NN', true)", "14"),
        ("STARTSWITH(c.name, 'A')", "1"),
        ("ENDSWITH(c.name, 'na')", "14"),
        ("ARRAY_CONTAINS(c.tags, 'y')", "12"),
        ("ARRAY_CONTAINS(c.items, {'s': 'A'}, true)", "4"),
        ("ARRAY_CONTAINS(c.items, {'s': 'A'})", ""),
        ("ARRAY_LENGTH(c.tags) = 0", "3"),
        ("EXISTS(SELECT VALUE i FROM i IN c.items WHERE i.q > 3)", "4"),
        ("c.flag", "5"),
        ("c.flag = true", "5"),
        ("c.n % 2 = 0 AND IS_NUMBER(c.n)", "24"),
        ("c.n + 1 = 2 OR -c.n = -2", "12"),
        ("(c.name || '!') = 'bob!'", "2"),
        ("c.name || '!' = 'bob!'", ""),
        ("(c.n > 3 ? 'big' : 'small') = 'big'", "34"),
        ("(c.missing ?? c.n) = 4", "4"),
        ("c.o = {'k': {'d': 1}}", "1"),
        ("c.tags = ['y']", "2"),
        ("REGEXMATCH(c.name, '^an', 'i')", "14"),
        ('c.name = "bob" -- a comment', "2"),
        ("c.name = '\\u0062ob'", "2"),
    ],
)
async def test_where_selects(filled: ContainerProxy, condition: str, ids: str) -> None:
    found = await ask(filled, f"SELECT VALUE c.id FROM c WHERE {condition}")
    assert "".join(sorted(found)) == ids


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT VALUE COUNT(1) FROM c", [5]),
        ("SELECT VALUE COUNT(c.flag) FROM c", [1]),
        ("SELECT VALUE SUM(c.n) FROM c WHERE IS_NUMBER(c.n)", [10.5]),
        ("SELECT VALUE AVG(c.n) FROM c WHERE c.n < 3", [1.5]),
        ("SELECT VALUE MAX(c.id) FROM c", ["5"]),
        ("SELECT VALUE COUNT(1) FROM c WHERE c.id = 'none'", [0]),
        ("SELECT TOP 2 VALUE c.id FROM c ORDER BY c.id DESC", ["5", "4"]),
        ("SELECT VALUE c.id FROM c ORDER BY c.id OFFSET 1 LIMIT 2", ["2", "3"]),
        ("SELECT VALUE c.id FROM c WHERE c.id != '5' ORDER BY c.n", ["1", "2", "3", "4"]),
        ("SELECT DISTINCT VALUE c.kind FROM c ORDER BY c.kind", ["even", "odd"]),
        ("SELECT VALUE t FROM c JOIN t IN c.tags WHERE c.id = '1'", ["x", "y"]),
        ("SELECT c.id, i.q FROM c JOIN i IN c.items", [{"id": "4", "q": 1}, {"id": "4", "q": 5}]),
        ("SELECT c.id AS a, c.missing, 1 + 1, 'x' FROM c WHERE c.id = '1'", [{"a": "1", "$1": 2, "$2": "x"}]),
        ("SELECT VALUE {'i': c.id, t: [c.n, c.none]} FROM c WHERE c.id = '2'", [{"i": "2", "t": [2, None]}]),
        ("SELECT VALUE ARRAY(SELECT VALUE i.s FROM i IN c.items) FROM c WHERE c.id = '4'", [["A", "B"]]),
        ("SELECT VALUE (SELECT VALUE COUNT(1) FROM t IN c.tags) FROM c WHERE c.id = '1'", [2]),
        ("SELECT VALUE r.o.k FROM root r WHERE r.id = '1'", [{"d": 1}]),
        ("SELECT VALUE i.s FROM i IN c.items", ["A", "B"]),
        ("SELECT 1 AS a, 2 AS b", [{"a": 1, "b": 2}]),
        ("SELECT EXISTS(SELECT VALUE undefined) AS a, EXISTS(SELECT undefined) AS b", [{"a": False, "b": True}]),
        ("SELECT VALUE c.missing FROM c", []),
        ("SELECT c.missing FROM c WHERE c.id = '1'", [{}]),
        ("SELECT VALUE t FROM c JOIN (SELECT VALUE c.n * 2) t WHERE c.id = '4'", [8]),
        ("SELECT VALUE COUNT(1) FROM c JOIN (SELECT VALUE t FROM t IN c.tags WHERE t = 'y')", [2]),
        ("SELECT VALUE m.u FROM c JOIN m IN (SELECT VALUE [{k: 'odd', u: 1}]) WHERE m.k = c.kind AND c.id = '1'", [1]),
        ("SELECT VALUE s.id FROM (SELECT c.id, c.n FROM c WHERE IS_NUMBER(c.n)) s WHERE s.n = 4", ["4"]),
        ("SELECT VALUE (SELECT VALUE t FROM t IN c.tags WHERE t = 'z') FROM c", []),
        ("SELECT VALUE COUNTIF(c.kind = 'odd') FROM c", [3]),
        ("SELECT VALUE c['o']['k'] FROM c WHERE c.id = '2'", [{"d": 2}]),
        ("SELECT VALUE SUBSTRING(c.name, 1, 2) FROM c WHERE c.id = '1'", ["nn"]),
        ("SELECT VALUE DateTimeAdd('mm', 1, '2024-01-31T00:00:00.0000001Z') FROM c WHERE c.id = '1'",
         ["2024-02-29T00:00:00.0000001Z"]),
    ],
)  # fmt: skip
async def test_select_returns(filled: ContainerProxy, text: str, rows: list[Any]) -> None:
    assert await ask(filled, text) == rows


async def test_grouping_works_in_one_partition_and_is_refused_across_as_the_sdk_cannot_combine_groups(
    filled: ContainerProxy,
) -> None:
    text = "SELECT c.kind, COUNT(1) AS many, MAX(c.n) AS most FROM c GROUP BY c.kind"
    rows = await ask(filled, text, partition_key="a")
    assert rows == [{"kind": "odd", "many": 1, "most": 1}, {"kind": "even", "many": 1, "most": 4}]
    with pytest.raises(CosmosHttpResponseError, match="GroupBy") as caught:
        await ask(filled, text)
    assert caught.value.status_code == 400


async def test_only_a_filter_on_the_partition_key_spares_the_cross_partition_header(
    shared: CosmosServer,
) -> None:
    def sync_queries() -> tuple[list[Any], list[Any]]:
        with sync_client(shared.endpoint, shared.key) as client:
            container = client.get_database_client("db").get_container_client("items")
            text = "SELECT c.kind, COUNT(1) AS many FROM c WHERE c.pk = @pk AND c.n > 0 GROUP BY c.kind"
            pinned = list(container.query_items(text, parameters=[{"name": "@pk", "value": "a"}]))
            with pytest.raises(CosmosHttpResponseError, match="Cross partition query is required"):
                list(container.query_items("SELECT * FROM c"))
            sorted_ = container.query_items("SELECT VALUE c.id FROM c ORDER BY c.id", enable_cross_partition_query=True)
            return pinned, list(sorted_)

    pinned, in_order = await asyncio.to_thread(sync_queries)
    assert pinned == [{"kind": "odd", "many": 1}, {"kind": "even", "many": 1}]
    assert in_order == ["1", "2", "3", "4", "5"]


async def test_parameters_of_every_type_are_compared_by_value(filled: ContainerProxy) -> None:
    assert await ask(filled, "SELECT VALUE c.id FROM c WHERE c.o = @o", o={"k": {"d": 2}}) == ["2"]
    assert await ask(
        filled, "SELECT VALUE c.id FROM c WHERE ARRAY_CONTAINS(@ids, c.id) ORDER BY c.id", ids=["5", "1"]
    ) == [
        "1",
        "5",
    ]
    assert await ask(filled, "SELECT VALUE c.id FROM c WHERE c.name = @name", name="' OR 1=1 --") == []


async def test_rows_skipped_across_partitions_are_counted_once(container: ContainerProxy) -> None:
    for number in range(20):
        await container.create_item({"id": f"{number:02}", "pk": "left" if number < 10 else f"p{number}"})
    text = "SELECT VALUE c.id FROM c ORDER BY c.id OFFSET 6 LIMIT 3"
    assert await ask(container, text) == ["06", "07", "08"]


async def test_a_partition_key_narrows_a_query(filled: ContainerProxy) -> None:
    assert await ask(filled, "SELECT VALUE c.id FROM c", partition_key="a") == ["1", "4"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("SELECT", "Syntax error"),
        ("SELECT * FROM c WHERE c.x ==", "Syntax error"),
        ("SELECT c.order FROM c", "order"),
        ("SELECT NOSUCH(c.x) FROM c", "NOSUCH"),
        ("SELECT VALUE udf.twice(c.n) FROM c", "user-defined function twice"),
        ("SELECT x.n FROM c", "'x'"),
        ("SELECT * FROM c WHERE c.x = @p", "@p"),
        ("SELECT LOWER() FROM c", "LOWER"),
        ("SELECT * FROM c WHERE COUNT(1) > 1", "COUNT"),
        ("SELECT * FROM c JOIN t IN c.tags", "SELECT *"),
        ("SELECT * FROM c ORDER BY RANK FullTextScore(c.x, 'a')", "RANK"),
        ("SELECT *\nFROM c\nWHERE c.x ==  3", "line 3, column 12"),
        ("SELECT * FROM c ORDER BY LOWER(c.name)", "ORDER BY item expression could not be mapped"),
        ("SELECT c.id FROM c JOIN i IN c.items ORDER BY i.q", "Order-by over correlated collections"),
        ("SELECT * FROM c ORDER BY c.kind, c.n", "composite index"),
        ("SELECT * FROM c ORDER BY c._etag", "range index"),
        ("SELECT c.n, COUNT(1) FROM c GROUP BY c.kind", "not contained in either an aggregate function"),
        ("SELECT c.kind FROM c GROUP BY c.kind ORDER BY c.kind", "presence of GROUP BY"),
        ("SELECT VALUE ARRAY(SELECT VALUE t FROM t IN c.tags ORDER BY t) FROM c", "'ORDER BY' is not supported in sub"),
        ("SELECT VALUE ARRAY(SELECT TOP 1 VALUE t FROM t IN c.tags) FROM c", "'TOP' is not supported in sub"),
        ("SELECT VALUE MAX(MIN(c.n)) FROM c", "MIN"),
        ("SELECT TOP 4294967296 * FROM c", "maximum allowed"),
        ("SELECT VALUE COUNT(1) FROM c WHERE c.id IN (@a, @b)", "@a"),
        ("SELECT * FROM c WHERE c.n > 0 AND udf.f(c.n)", "user-defined function f"),
    ],
)
async def test_what_cannot_run_is_refused_by_name(filled: ContainerProxy, text: str, named: str) -> None:
    with pytest.raises(CosmosHttpResponseError, match=named) as caught:
        await ask(filled, text)
    assert caught.value.status_code == 400
