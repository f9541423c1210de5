"""Unique keys: they hold within a logical partition, whatever the values look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.exceptions import CosmosBatchOperationError

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.state.unique_keys import unique_keys
from tests.local_cosmos.sdk_steps import status_of

if TYPE_CHECKING:
    from azure.cosmos.aio import DatabaseProxy


async def test_a_unique_key_holds_within_a_logical_partition(database: DatabaseProxy) -> None:
    policy: Any = {"uniqueKeys": [{"paths": ["/email"]}, {"paths": ["/a/b", "/c"]}]}
    container = await database.create_container("unique", PartitionKey("/pk"), unique_key_policy=policy)
    await container.create_item({"id": "1", "pk": "p", "email": "x", "a": {"b": 1}, "c": 1})
    assert (await status_of(container.create_item({"id": "2", "pk": "p", "email": "x", "c": 2})))[0] == 409
    assert (await status_of(container.create_item({"id": "2", "pk": "p", "email": "y", "a": {"b": 1}, "c": 1})))[
        0
    ] == 409
    await container.create_item({"id": "2", "pk": "q", "email": "x"})
    await container.upsert_item({"id": "1", "pk": "p", "email": "new"})
    await container.create_item({"id": "3", "pk": "p", "email": "x", "c": 3})
    await container.delete_item("3", "p")
    await container.create_item({"id": "4", "pk": "p", "email": "x", "c": 4})
    assert (await status_of(container.create_item({"id": "5", "pk": "p", "email": "z", "c": None})))[0] == 409


async def test_equal_numbers_are_one_unique_value_and_unique_keys_may_be_swapped_by_nobody(
    database: DatabaseProxy,
) -> None:
    policy: Any = {"uniqueKeys": [{"paths": ["/n"]}]}
    container = await database.create_container("unique", PartitionKey("/pk"), unique_key_policy=policy)
    await container.create_item({"id": "1", "pk": "p", "n": 1})
    assert (await status_of(container.create_item({"id": "2", "pk": "p", "n": 1.0})))[0] == 409
    await container.create_item({"id": "2", "pk": "p", "n": True})
    await container.create_item({"id": "3", "pk": "p", "n": "1"})
    patch = [{"op": "set", "path": "/n", "value": "1"}]
    assert (await status_of(container.patch_item("1", "p", patch)))[0] == 409
    swap: Any = [("upsert", ({"id": "1", "pk": "p", "n": "1"},)), ("upsert", ({"id": "3", "pk": "p", "n": 1},))]
    with pytest.raises(CosmosBatchOperationError) as caught:
        await container.execute_item_batch(swap, "p")
    assert caught.value.operation_responses[0]["statusCode"] == 409
    hand_over: Any = [("delete", ("3",)), ("upsert", ({"id": "1", "pk": "p", "n": "1"},))]
    await container.execute_item_batch(hand_over, "p")


@pytest.mark.parametrize(
    "keys",
    [
        "x",
        [{}],
        [{"paths": []}],
        [{"paths": ["email"]}],
        [{"paths": ["/a", "/a"]}],
        [{"paths": ["/a"]}, {"paths": ["/a"]}],
        [{"paths": [f"/{n}"]} for n in range(11)],
        [{"paths": [f"/{n}" for n in range(17)]}],
    ],
)
def test_a_unique_key_policy_that_is_not_allowed_is_refused(keys: Any) -> None:
    with pytest.raises(CosmosError) as caught:
        unique_keys({"uniqueKeyPolicy": {"uniqueKeys": keys}})
    assert caught.value.status == 400
