"""Transactional batches: all operations or none, in one change."""

from __future__ import annotations

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
