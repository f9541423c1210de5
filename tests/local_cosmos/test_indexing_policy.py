"""Indexing policies: what is filled in, what is left out, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import DatabaseProxy

_KEY = PartitionKey("/id")


async def test_the_kinds_of_index_that_old_clients_name_are_left_out(database: DatabaseProxy) -> None:
    kinds = [{"kind": "Hash", "dataType": "String"}]
    policy: Any = {"includedPaths": [{"path": "/*", "indexes": kinds}], "excludedPaths": [{"path": "/a/?"}]}
    container = await database.create_container("items", _KEY, indexing_policy=policy)
    found = (await container.read())["indexingPolicy"]
    assert found["includedPaths"] == [{"path": "/*"}]
    assert found["excludedPaths"] == [{"path": "/a/?"}, {"path": '/"_etag"/?'}]


async def test_paths_that_are_none_are_refused(database: DatabaseProxy) -> None:
    policies: list[Any] = [{"includedPaths": 5}, {"excludedPaths": ["/*"]}, {"includedPaths": [{"indexes": []}]}]
    for policy in policies:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await database.create_container("items", _KEY, indexing_policy=policy)
        assert caught.value.status_code == 400, policy
