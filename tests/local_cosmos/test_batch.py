"""Transactional batches: all operations or none, in one change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy


def item(id_: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "pk": "p", **more}


async def test_a_batch_answers_every_operation(container: ContainerProxy) -> None:
    await container.create_item(item("old", v=1))
    await container.create_item(item("gone"))
    results = await container.execute_item_batch(
        [
            ("create", (item("new"),)),
            ("upsert", (item("old", v=2),)),
            ("upsert", (item("other"),)),
            ("read", ("old",)),
            ("replace", ("old", item("old", v=3))),
            ("delete", ("gone",)),
            ("patch", ("old", [{"op": "incr", "path": "/v", "value": 1}])),
        ],
        "p",
    )
    assert [result["statusCode"] for result in results] == [201, 200, 201, 200, 200, 204, 200]
    assert results[3]["resourceBody"]["v"] == 2
    assert results[6]["eTag"] == (await container.read_item("old", "p"))["_etag"]
    assert (await container.read_item("old", "p"))["v"] == 4


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        (("create", (item("there"),)), 409),
        (("read", ("missing",)), 404),
        (("delete", ("missing",)), 404),
        (("replace", ("there", item("there")), {"if_match_etag": '"stale"'}), 412),
        (("create", ({"id": "x", "pk": "another"},)), 400),
        (("patch", ("there", [{"op": "set", "path": "/pk", "value": "another"}])), 400),
        (("patch", ("missing", [{"op": "set", "path": "/v", "value": 1}])), 404),
        (("delete", ("there",), {"if_match_etag": '"stale"'}), 412),
        (("patch", ("there", [{"op": "set", "path": "/v", "value": 1}]), {"if_match_etag": '"stale"'}), 412),
        (("upsert", (item("there"),), {"if_match_etag": '"stale"'}), 412),
        (
            (
                "patch",
                ("there", [{"op": "incr", "path": "/v", "value": 1}]),
                {"filter_predicate": "from c where false"},
            ),
            412,
        ),
    ],
)
async def test_one_failing_operation_rolls_the_batch_back(container: ContainerProxy, failing: Any, status: int) -> None:
    await container.create_item(item("there", v=1))
    operations = [("upsert", (item("there", v=2),)), ("create", (item("new"),)), failing, ("create", (item("last"),))]
    with pytest.raises(CosmosBatchOperationError) as caught:
        await container.execute_item_batch(operations, "p")
    assert caught.value.error_index == 2
    assert [response["statusCode"] for response in caught.value.operation_responses] == [424, 424, status, 424]
    stored = [document async for document in container.query_items("SELECT c.id, c.v FROM c")]
    assert stored == [{"id": "there", "v": 1}]
    assert len([document async for document in container.query_items_change_feed(start_time="Beginning")]) == 1


async def test_a_batch_that_wants_no_bodies_gets_those_it_read(container: ContainerProxy) -> None:
    operations: Any = [("create", (item("a"),)), ("read", ("a",)), ("delete", ("a",))]
    results = await container.execute_item_batch(operations, "p", no_response=True)
    assert ["resourceBody" in result for result in results] == [False, True, False]
    assert ["eTag" in result for result in results] == [True, True, False]


async def test_an_operation_sees_what_those_before_it_in_the_batch_did(container: ContainerProxy) -> None:
    increment = [{"op": "incr", "path": "/v", "value": 1}]
    operations: Any = [
        ("create", (item("a", v=1),)),
        ("patch", ("a", increment), {"filter_predicate": "from c where c.v = 1"}),
        ("patch", ("a", increment), {"filter_predicate": "from c where c.v = 2"}),
        ("read", ("a",)),
        ("delete", ("a",)),
        ("create", (item("a", v=9),)),
    ]
    results = await container.execute_item_batch(operations, "p")
    assert [result["statusCode"] for result in results] == [201, 200, 200, 200, 204, 201]
    assert results[3]["resourceBody"]["v"] == 3
    assert (await container.read_item("a", "p"))["v"] == 9


async def test_a_malformed_operation_fails_alone_and_a_malformed_batch_whole(container: ContainerProxy) -> None:
    async def send(*operations: Any) -> None:
        """Send a batch that the SDK would not make."""
        body = json.dumps(operations).encode()
        hook: Any = {"raw_request_hook": lambda request: request.http_request.set_bytes_body(body)}
        await container.execute_item_batch([("read", ("a",))], "p", **hook)

    for operation in ({"operationType": "Create", "resourceBody": {"pk": "p"}}, {"operationType": "Burn", "id": "a"}):
        with pytest.raises(CosmosBatchOperationError) as caught:
            await send({"operationType": "Upsert", "resourceBody": item("b")}, operation)
        assert [response["statusCode"] for response in caught.value.operation_responses] == [424, 400]
    for batch in ([], ["x"]):
        with pytest.raises(CosmosHttpResponseError) as refused:
            await send(*batch)
        assert refused.value.status_code == 400
    assert [row async for row in container.query_items("SELECT * FROM c")] == []


async def test_a_batch_of_more_than_a_hundred_operations_is_refused(container: ContainerProxy) -> None:
    await container.execute_item_batch([("create", (item(str(n)),)) for n in range(100)], "p")
    with pytest.raises(CosmosHttpResponseError) as caught:
        await container.execute_item_batch([("upsert", (item(str(n)),)) for n in range(101)], "p")
    assert caught.value.status_code == 400


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_batch_over_two_megabytes_is_refused(container: ContainerProxy) -> None:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await container.execute_item_batch([("create", (item(str(n), x="y" * 800_000),)) for n in range(3)], "p")
    assert caught.value.status_code == 413
