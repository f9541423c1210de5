"""Whatever is asked, the answer is a Cosmos DB status and never a defect of the server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos.exceptions import CosmosHttpResponseError
from hypothesis import given, settings
from hypothesis import strategies as st

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.messages import Request
from core.local.cosmos.operations.routes import Router
from core.local.cosmos.state.account import Account

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos import CosmosServer

segments = st.lists(
    st.sampled_from(
        ["dbs", "d", "colls", "c", "docs", "pkranges", "offers", "operations", "partitionkeydelete", "id", "%", ""]
    ),
    max_size=6,
) | st.sampled_from(
    [["dbs", "d", "colls", "c", "docs"], ["dbs", "d", "colls", "c", "docs", "id"], ["dbs", "d", "colls"]]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "pk", "query", "operations", "op", "path", "ttl", "partitionKey"]), inner
        )
    ),
    max_leaves=12,
)
words = [
    "SELECT",
    "FROM",
    "WHERE",
    "c",
    ".",
    "id",
    "pk",
    "=",
    "(",
    ")",
    "[",
    "]",
    ",",
    "*",
    "ORDER BY",
    "VALUE",
    "COUNT",
]
words += [
    "1",
    "'x'",
    "@p",
    "AND",
    "NOT",
    "IN",
    "LIKE",
    "{",
    "d",
    "}",
    "JOIN",
    "EXISTS",
    "ARRAY",
    "GROUP BY",
    "TOP",
    "DISTINCT",
]
queries = st.lists(st.sampled_from(words), max_size=12).map(
    lambda parts: json.dumps({"query": " ".join(parts)}).encode()
)
bodies = st.binary(max_size=20) | json_values.map(lambda value: json.dumps(value).encode()) | queries
values = st.sampled_from(
    ["true", "-1", "0", "[]", "[{}]", '["p"]', '[["x"]]', "{", "*", '"5"', "Incremental Feed", "\x00ü", "0:-1#9999"]
)
headers = st.dictionaries(
    st.sampled_from(
        [
            "x-ms-documentdb-partitionkey", "x-ms-documentdb-isquery", "x-ms-max-item-count", "a-im", "if-none-match",
            "if-modified-since", "if-match", "x-ms-continuation", "x-ms-start-epk", "x-ms-end-epk",
            "x-ms-documentdb-partitionkeyrangeid", "x-ms-cosmos-is-batch-request", "x-ms-documentdb-is-upsert",
            "x-ms-offer-throughput", "x-ms-cosmos-offer-autopilot-settings", "x-ms-cosmos-is-query-plan-request",
            "x-ms-documentdb-query-enablecrosspartition", "x-ms-session-token",
        ]
    ),
    values,
    max_size=6,
)  # fmt: skip


class Anyone:
    """Lets every request pass."""

    def check(self, request: Request) -> None:
        pass


def fresh() -> Router:
    account = Account()
    account.create_database({"id": "d"}, None, None)
    account.create_container(
        "d", {"id": "c", "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}}, 12_000, None
    )
    return Router(account, Anyone(), lambda _: "http://127.0.0.1/")  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "BREW"]), segments, headers, bodies)
def test_no_request_meets_a_defect(method: str, path: list[str], sent: dict[str, str], body: bytes) -> None:
    try:
        response = router.handle(Request(method, path, sent, body))
    except CosmosError as error:
        assert 400 <= error.status < 500  # noqa: PT017 - a refusal is one of two good answers
    else:
        assert response.status in {200, 201, 204, 207, 304}


router = fresh()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT VALUE " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT VALUE " + "[" * 3000 + "]" * 3000,
        "SELECT VALUE 1" + " + 1" * 5000,
        "SELECT * FROM c WHERE " + "NOT " * 5000 + "true",
        "SELECT VALUE 99999999999999999999999999999999 * 1e308 * 10 FROM c",
        "SELECT VALUE INTBITLEFTSHIFT(1, 1000000000) FROM c",
        "SELECT VALUE REPLICATE('x', 1e12) FROM c",
        "SELECT * FROM c WHERE c.long LIKE '" + "%" * 60 + "b'",
        "SELECT VALUE '\\ud800' FROM c",
        "SELECT VALUE c.id FROM c WHERE REGEXMATCH(c.long, '(')",
    ],
)  # fmt: skip
async def test_a_hostile_query_is_answered_or_refused_at_once(container: ContainerProxy, text: str) -> None:
    await container.create_item({"id": "a", "pk": "p", "long": "a" * 200})
    try:
        rows = [row async for row in container.query_items(text, partition_key="p")]
        assert len(rows) <= 1
    except CosmosHttpResponseError as error:
        assert error.status_code == 400  # noqa: PT017 - a refusal is one of two good answers


async def test_documents_of_one_batch_expire_together(server: CosmosServer, container: ContainerProxy) -> None:
    operations: list[Any] = [("upsert", ({"id": str(n % 3), "pk": "p", "ttl": 5},)) for n in range(9)]
    await container.execute_item_batch(operations, "p")
    server.account.clock.advance(6)
    assert [row async for row in container.query_items("SELECT * FROM c", partition_key="p")] == []
