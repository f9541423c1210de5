"""Queries over several physical partitions, which the SDK combines by the server's query plan, and their pages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

from core.local.cosmos import CosmosServer
from core.local.cosmos.sql.evaluate import CONTEXT
from core.local.cosmos.sql.program import compile_query
from core.local.cosmos.sql.signature import Context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

POLICY: Any = {
    "includedPaths": [{"path": "/*"}],
    "compositeIndexes": [[{"path": "/a", "order": "ascending"}, {"path": "/b", "order": "descending"}]],
}
DOCUMENTS: list[dict[str, Any]] = [
    {"id": f"{n:02}", "pk": f"p{n % 11}", "a": n % 3, "b": n % 4, "n": n, "mixed": [n, str(n), None][n % 3],
     "o": {"x": n % 2, "y": 1} if n % 4 else {"y": 1, "x": n % 2}} | ({"rare": n} if n % 10 == 0 else {})
    for n in range(40)
]  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def wide() -> AsyncIterator[ContainerProxy]:
    """Forty documents in three physical partitions."""
    async with CosmosServer() as server, CosmosClient(server.endpoint, server.key, retry_total=0) as client:
        database = await client.create_database("db")
        container = await database.create_container(
            "wide", PartitionKey("/pk"), offer_throughput=18_000, indexing_policy=POLICY
        )
        for document in DOCUMENTS:
            await container.create_item(document)
        yield container


async def ask(container: ContainerProxy, text: str, values: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    parameters: Any = [{"name": name, "value": value} for name, value in (values or {}).items()]
    return [row async for row in container.query_items(text, parameters=parameters, **options)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("SELECT TOP 5 VALUE c.id FROM c ORDER BY c.id", {}),
        ("SELECT TOP @n VALUE c.id FROM c ORDER BY c.n DESC", {"@n": 7}),
        ("SELECT VALUE c.id FROM c WHERE c.n > @low ORDER BY c.n OFFSET @skip LIMIT @take",
         {"@low": 3, "@skip": 5, "@take": 6}),
        ("SELECT c.id, c.n + 1 AS m FROM c WHERE c.a = 1 OR c.b = 2 ORDER BY c.n", {}),
        ("SELECT c.a, c.b, c.n FROM c WHERE c.n < 12 ORDER BY c.a, c.b DESC", {}),
        ("SELECT DISTINCT VALUE c.a FROM c ORDER BY c.a", {}),
        ("SELECT DISTINCT c.a, c.b FROM c ORDER BY c.a, c.b DESC", {}),
        ("SELECT DISTINCT VALUE c.a FROM c ORDER BY c.a DESC OFFSET 1 LIMIT 1", {}),
        ("SELECT VALUE c.n FROM c WHERE c['o'].x = 1 AND NOT (c.n > 20) ORDER BY c['n']", {}),
        ("SELECT * FROM c WHERE c.id IN ('03', '17', @id) ORDER BY c.id", {"@id": "31"}),
        ("SELECT VALUE COUNT(1) FROM c", {}),
        ("SELECT VALUE COUNT(c.rare) FROM c", {}),
        ("SELECT VALUE COUNTIF(c.a = 1) FROM c", {}),
        ("SELECT VALUE SUM(c.n) FROM c WHERE c.a != 2", {}),
        ("SELECT VALUE SUM(c.rare) FROM c", {}),
        ("SELECT VALUE AVG(c.n) FROM c", {}),
        ("SELECT VALUE AVG(c.rare) FROM c", {}),
        ("SELECT VALUE MIN(c.rare) FROM c WHERE c.n > 5", {}),
        ("SELECT VALUE MAX(c.mixed) FROM c", {}),
        ("SELECT VALUE MIN(c.mixed) FROM c", {}),
    ],
)  # fmt: skip
async def test_partitions_together_answer_like_one(wide: ContainerProxy, text: str, values: dict[str, Any]) -> None:
    documents = [document async for document in wide.read_all_items()]
    found = await ask(wide, text, values, max_item_count=3)
    [*whole] = compile_query(text).rows(values | {CONTEXT: Context(0)}, sorted(documents, key=lambda d: d["id"]))
    tied = "c.n < 12" in text  # which of the rows with equal keys comes first is up to the partitions
    assert sorted(found, key=str) == sorted(whole, key=str) if tied else found == whole


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("SELECT DISTINCT VALUE c.a FROM c", 3),
        ("SELECT DISTINCT c.a, c.b FROM c", 12),
        ("SELECT DISTINCT VALUE c.o FROM c", 2),  # the order of names makes no difference
        ("SELECT DISTINCT c.rare FROM c", 5),  # undefined is one more value, an empty row
        ("SELECT DISTINCT c.b FROM c ORDER BY c.a, c.b DESC", 4),  # equal rows do not follow each other
        ("SELECT DISTINCT VALUE c.b FROM c ORDER BY c.n OFFSET 1 LIMIT 10", 3),
        ("SELECT DISTINCT TOP 2 VALUE c.b FROM c", 2),
        ("SELECT VALUE c.id FROM c OFFSET 35 LIMIT 10", 5),
        ("SELECT VALUE 1", 1),
    ],
)
async def test_rows_are_distinct_over_all_partitions(wide: ContainerProxy, text: str, count: int) -> None:
    found = await ask(wide, text, max_item_count=2)
    assert len(found) == count
    assert len({str(sorted(row.items()) if isinstance(row, dict) else row) for row in found}) == count


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("SELECT c.a, COUNT(1) AS n FROM c GROUP BY c.a", "GroupBy"),
        ("SELECT COUNT(1) FROM c", "NonValueAggregate"),
        ("SELECT COUNT(1) AS a, SUM(c.n) AS b FROM c", "MultipleAggregates"),
        ("SELECT VALUE COUNT(1) FROM (SELECT DISTINCT VALUE c.a FROM c)", "DCount"),
        ("SELECT VALUE {'n': SUM(c.n)} FROM c", "Compositions of aggregates"),
    ],
)
async def test_what_this_sdk_cannot_combine_is_refused_across_partitions_and_works_in_one(
    wide: ContainerProxy, text: str, feature: str
) -> None:
    with pytest.raises(CosmosHttpResponseError, match=feature) as caught:
        await ask(wide, text)
    assert caught.value.status_code == 400
    assert await ask(wide, text, partition_key="p1")


async def test_a_feed_range_is_asked_alone_and_all_of_them_hold_everything(wide: ContainerProxy) -> None:
    ranges = [item async for item in wide.read_feed_ranges()]
    parts = [await ask(wide, "SELECT VALUE c.id FROM c WHERE c.n >= 0", feed_range=item) for item in ranges]
    assert len(parts) == 3
    assert all(parts)
    assert sorted(id_ for part in parts for id_ in part) == [document["id"] for document in DOCUMENTS]


async def test_a_prefix_of_a_hierarchical_key_is_asked_alone(database: DatabaseProxy) -> None:
    container = await database.create_container("deep", PartitionKey(["/a", "/b"], kind="MultiHash"))
    for number in range(12):
        await container.create_item({"id": str(number), "a": f"a{number % 2}", "b": f"b{number % 3}", "n": number})
    text = "SELECT VALUE c.n FROM c ORDER BY c.n DESC"
    prefix: Any = ["a0"]
    whole: Any = ["a0", "b0"]
    assert await ask(container, text, partition_key=prefix, max_item_count=2) == [10, 8, 6, 4, 2, 0]
    assert await ask(container, text, partition_key=whole) == [6, 0]


async def test_a_page_size_of_minus_one_has_no_limit(wide: ContainerProxy) -> None:
    pages = wide.query_items("SELECT VALUE c.id FROM c", partition_key="p1", max_item_count=-1).by_page()
    assert [len([row async for row in page]) async for page in pages] == [4]


@pytest.mark.parametrize("text", ["SELECT VALUE c.text FROM c ORDER BY c.text", "SELECT DISTINCT VALUE c.text FROM c"])
async def test_a_continuation_is_no_longer_than_it_may_be(container: ContainerProxy, text: str) -> None:
    for number in range(6):
        await container.create_item({"id": str(number), "pk": "p", "text": f"{number}" + "x" * 3000})
    options: Any = {"partition_key": "p", "max_item_count": 2, "continuation_token_limit": 1}
    found: list[str] = []
    token: str | None = None
    while True:
        pages: Any = container.query_items(text, **options).by_page(token)
        found.extend([row[0] async for row in await anext(pages)])
        token = pages.continuation_token
        if token is None:
            break
        assert len(token) <= 1024
    assert found == ["0", "1", "2", "3", "4", "5"]


async def test_distinct_and_sorted_rows_go_on_behind_the_last_one_whatever_was_written(
    container: ContainerProxy,
) -> None:
    for number in range(12):
        await container.create_item({"id": str(number), "pk": "p", "n": number // 2})
    text = "SELECT DISTINCT VALUE c.n FROM c ORDER BY c.n DESC"
    first: Any = container.query_items(text, partition_key="p", max_item_count=3).by_page()
    assert [row async for row in await anext(first)] == [5, 4, 3]
    await container.create_item({"id": "before", "pk": "p", "n": 9})
    await container.create_item({"id": "behind", "pk": "p", "n": 0.5})
    await container.delete_item("6", "p")
    rest: Any = container.query_items(text, partition_key="p").by_page(first.continuation_token)
    assert [row async for page in rest async for row in page] == [2, 1, 0.5, 0]


async def test_undefined_sorts_before_null_and_equal_keys_by_age(container: ContainerProxy) -> None:
    values: list[Any] = ["a", 1, None, True, [1], {"x": 1}, 0.5, False]
    for number, value in enumerate(values):
        await container.create_item({"id": str(number), "pk": "p", "v": value})
    await container.create_item({"id": "8", "pk": "p"})
    await container.create_item({"id": "9", "pk": "p"})
    ascending = await ask(container, "SELECT VALUE c.id FROM c ORDER BY c.v", partition_key="p", max_item_count=1)
    assert ascending == ["8", "9", "2", "7", "3", "6", "1", "0", "4", "5"]
    descending = await ask(container, "SELECT VALUE c.id FROM c ORDER BY c.v DESC", partition_key="p", max_item_count=1)
    assert descending == ascending[::-1]


async def test_all_pages_of_a_sorted_query_cost_about_as_much_as_one(
    server: CosmosServer, container: ContainerProxy
) -> None:
    for batch in range(20):
        operations = [("upsert", ({"id": f"{batch:02}{n:02}", "pk": "p", "n": n},)) for n in range(100)]
        await container.execute_item_batch(operations, "p")
    started = time.monotonic()
    found = await ask(container, "SELECT VALUE c.id FROM c ORDER BY c.id", partition_key="p", max_item_count=20)
    assert found == sorted(found)
    assert len(found) == 2000
    one = await ask(container, "SELECT VALUE c.n FROM c WHERE c.id = '0101' AND c.pk = 'p'")
    assert one == [1]
    assert time.monotonic() - started < 6
