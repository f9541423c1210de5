"""Documents through the real SDK: what is written is read, and every refusal has Cosmos DB's status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from azure.core import MatchConditions
from azure.cosmos import PartitionKey
from azure.cosmos.exceptions import CosmosHttpResponseError
from azure.cosmos.partition_key import NonePartitionKeyValue

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.state.partition_key import PartitionKeyDefinition
from tests.local_cosmos.sdk_steps import status_of

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

    from core.local.cosmos import CosmosServer


def content(document: Any) -> dict[str, Any]:
    return {name: value for name, value in document.items() if not name.startswith("_")}


async def test_a_document_is_read_back_as_it_was_written(container: ContainerProxy) -> None:
    body = {
        "id": "a b'ü漢",
        "pk": "é\u2028/\\?#",
        "n": 2**53 - 1,
        "deep": {"list": [1, None, True, 1.5, {}]},
        "t": "\U0001f600",
    }
    written = await container.create_item(body)
    read = await container.read_item("a b'ü漢", "é\u2028/\\?#")
    assert content(written) == content(read) == body
    assert {"_rid", "_self", "_etag", "_attachments", "_ts"} <= read.keys()
    assert "_lsn" not in read


async def test_creating_twice_conflicts_and_missing_documents_are_not_found(container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "pk": "p"})
    assert await status_of(container.create_item({"id": "a", "pk": "p"})) == (409, 0)
    await container.create_item({"id": "a", "pk": "other"})
    assert await status_of(container.read_item("missing", "p")) == (404, 0)
    assert await status_of(container.delete_item("missing", "p")) == (404, 0)
    assert await status_of(container.replace_item("missing", {"id": "missing", "pk": "p"})) == (404, 0)


async def test_a_conditional_write_needs_the_current_etag(container: ContainerProxy) -> None:
    first = await container.create_item({"id": "a", "pk": "p", "v": 1})
    second = await container.replace_item(
        "a", {"id": "a", "pk": "p", "v": 2}, etag=first["_etag"], match_condition=MatchConditions.IfNotModified
    )
    assert second["_etag"] != first["_etag"]
    stale = {"etag": first["_etag"], "match_condition": MatchConditions.IfNotModified}
    assert await status_of(container.replace_item("a", {"id": "a", "pk": "p"}, **stale)) == (412, 0)
    assert await status_of(container.upsert_item({"id": "a", "pk": "p"}, **stale)) == (412, 0)
    assert await status_of(container.delete_item("a", "p", **stale)) == (412, 0)
    assert (await container.read_item("a", "p"))["v"] == 2


async def test_a_read_of_a_known_version_is_not_modified(container: ContainerProxy) -> None:
    document = await container.create_item({"id": "a", "pk": "p"})
    known = {"etag": document["_etag"], "match_condition": MatchConditions.IfModified}
    assert dict(await container.read_item("a", "p", **known)) == {}  # the SDK's way of showing a 304


async def test_a_partition_key_that_differs_from_the_document_is_refused(container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "pk": "p"})
    call = container.client_connection.CreateItem(
        container.container_link, {"id": "b", "pk": "x"}, {"partitionKey": "y"}
    )
    assert await status_of(call) == (400, 1001)


@pytest.mark.parametrize("id_", ["", "a/b", "a\\b", "a?b", "a#b", "x" * 1024, "ü" * 512, 5, None])
async def test_ids_that_cosmos_refuses_are_refused(container: ContainerProxy, id_: object) -> None:
    call = container.client_connection.CreateItem(
        container.container_link, {"id": id_, "pk": "p"}, {"partitionKey": "p", "disableAutomaticIdGeneration": True}
    )
    with pytest.raises(Exception, match=r"(?i)id|required") as caught:
        await call
    assert getattr(caught.value, "status_code", 400) == 400


async def test_partition_keys_of_every_type_are_told_apart(container: ContainerProxy) -> None:
    keys: list[Any] = ["1", 1, 1.5, True, False, None, "", "true"]
    for index, key in enumerate(keys):
        await container.create_item({"id": "same", "pk": key, "index": index})
    await container.create_item({"id": "same"})
    for index, key in enumerate(keys):
        partition = key if key is not None else container_null()
        assert (await container.read_item("same", partition))["index"] == index
    assert await status_of(container.create_item({"id": "same", "pk": 1.0})) == (409, 0)


def container_null() -> Any:
    from azure.cosmos.partition_key import NullPartitionKeyValue  # noqa: PLC0415 - not in older versions

    return NullPartitionKeyValue


async def test_a_number_is_one_key_however_it_is_spelled_and_true_is_not_one(container: ContainerProxy) -> None:
    for index, number in enumerate([1e300, 2**63, 2.5, 0]):
        await container.create_item({"id": "same", "pk": number, "index": index})
        assert (await container.read_item("same", number))["index"] == index
    await container.read_item("same", float(2**63))
    assert await status_of(container.create_item({"id": "same", "pk": -0.0})) == (409, 0)
    mismatches: list[tuple[Any, Any]] = [(1, True), (0, False), (True, 1), ("1", 1), (2**53, 2**53 + 2)]
    for key, other in mismatches:
        document = {"id": "mismatch", "pk": other}
        call = container.client_connection.CreateItem(container.container_link, document, {"partitionKey": key})
        assert await status_of(call) == (400, 1001), (key, other)


async def test_a_key_of_more_than_2048_bytes_is_refused(container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "pk": "é" * 1024})
    assert await status_of(container.create_item({"id": "a", "pk": "é" * 1024 + "x"})) == (400, 0)


async def test_a_replace_may_rename_a_document_but_not_move_it(container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "pk": "p"})
    await container.create_item({"id": "taken", "pk": "p"})
    assert await status_of(container.replace_item("a", {"id": "taken", "pk": "p"})) == (409, 0)
    moved = container.client_connection.ReplaceItem(
        f"{container.container_link}/docs/a", {"id": "a", "pk": "q"}, {"partitionKey": "p"}
    )
    assert await status_of(moved) == (400, 1001)
    await container.replace_item("a", {"id": "b", "pk": "p"})
    assert await status_of(container.read_item("a", "p")) == (404, 0)
    assert (await container.read_item("b", "p"))["id"] == "b"


@pytest.mark.parametrize(
    "definition",
    [
        "x", {"paths": []}, {"paths": ["pk"]}, {"paths": ["/"]}, {"paths": ["/pk/"]}, {"paths": ["/a//b"]},
        {"paths": ["/a/*"]}, {"paths": ["/pk"], "kind": "Range"}, {"paths": ["/pk"], "version": 3},
        {"paths": ["/pk"], "version": None}, {"paths": ["/pk"], "version": []}, {"paths": ["/a", "/b"]},
        {"paths": ["/a", "/b"], "kind": "MultiHash", "version": 1},
        {"paths": ["/a", "/a"], "kind": "MultiHash", "version": 2},
        {"paths": ["/a", "/b", "/c", "/d"], "kind": "MultiHash", "version": 2},
    ],
)  # fmt: skip
def test_a_partition_key_definition_that_is_not_allowed_is_refused(definition: Any) -> None:
    with pytest.raises(CosmosError) as caught:
        PartitionKeyDefinition(definition)
    assert caught.value.status == 400


async def test_documents_of_a_container_without_a_key_have_the_empty_key(
    server: CosmosServer, database: DatabaseProxy
) -> None:
    server.account.create_container("db", {"id": "old"}, 12_000, None)
    container = database.get_container_client("old")
    await container.create_item({"id": "a"})
    await container.create_item({"id": "a", "_partitionKey": "p"})
    assert "_partitionKey" not in await container.read_item("a", NonePartitionKeyValue)
    assert (await container.read_item("a", "p"))["_partitionKey"] == "p"
    feed_range = await container.feed_range_from_partition_key(NonePartitionKeyValue)
    found: Any = container.query_items("SELECT * FROM c", feed_range=feed_range)
    assert ["_partitionKey" in row async for row in found] == [False]


async def test_triggers_are_refused_by_name_and_not_left_out(container: ContainerProxy) -> None:
    with pytest.raises(CosmosHttpResponseError, match="triggers") as caught:
        await container.create_item({"id": "a", "pk": "p"}, pre_trigger_include="audit")
    assert caught.value.status_code == 400
    assert await status_of(container.read_item("a", "p")) == (404, 0)


async def test_return_minimal_answers_without_a_body(container: ContainerProxy) -> None:
    operation = {"op": "set", "path": "/n", "value": 1}
    answers = [
        await container.create_item({"id": "a", "pk": "p"}, no_response=True),
        await container.upsert_item({"id": "a", "pk": "p"}, no_response=True),
        await container.replace_item("a", {"id": "a", "pk": "p"}, no_response=True),
        await container.patch_item("a", "p", [operation], no_response=True),
    ]
    assert [dict(answer) for answer in answers] == [{}] * 4
    read = await container.read_item("a", "p", no_response=True)
    assert (read["n"], read["_etag"]) == (1, answers[3].get_response_headers()["etag"])


async def test_a_patch_applies_all_operations_or_none(container: ContainerProxy) -> None:
    await container.create_item({"id": "a", "pk": "p", "n": 1, "list": [1, 2], "old": "x", "o": {"k": 1}})
    operations: list[dict[str, Any]] = [
        {"op": "incr", "path": "/n", "value": 2},
        {"op": "add", "path": "/list/1", "value": 9},
        {"op": "add", "path": "/list/-", "value": 3},
        {"op": "remove", "path": "/old"},
        {"op": "set", "path": "/o/new", "value": {"x": None}},
        {"op": "replace", "path": "/o/k", "value": 2},
        {"op": "move", "from": "/o/k", "path": "/moved"},
    ]
    patched = await container.patch_item("a", "p", operations, filter_predicate="from c where c.n = 1")
    assert content(patched) == {
        "id": "a", "pk": "p", "n": 3, "list": [1, 9, 2, 3], "o": {"new": {"x": None}}, "moved": 2,
    }  # fmt: skip
    half: list[dict[str, Any]] = [
        {"op": "set", "path": "/n", "value": 100},
        {"op": "replace", "path": "/missing", "value": 1},
    ]
    assert (await status_of(container.patch_item("a", "p", half)))[0] == 400
    failing = container.patch_item("a", "p", operations[:1], filter_predicate="from c where c.n = 1")
    assert (await status_of(failing))[0] == 412
    assert (await status_of(container.patch_item("a", "p", [{"op": "set", "path": "/pk", "value": "q"}])))[0] == 400
    assert (await container.read_item("a", "p"))["n"] == 3


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_document_over_two_megabytes_is_refused(container: ContainerProxy) -> None:
    assert (await status_of(container.create_item({"id": "a", "pk": "p", "x": "y" * 2_200_000})))[0] == 413
    small = await container.create_item({"id": "a", "pk": "p", "x": ""})
    # The limit is on what is stored, system properties included.
    room = 2 * 1024 * 1024 - len(json.dumps(small, separators=(",", ":")))
    assert (await status_of(container.upsert_item({"id": "a", "pk": "p", "x": "y" * (room + 1)})))[0] == 413
    assert len((await container.upsert_item({"id": "a", "pk": "p", "x": "y" * room}))["x"]) == room


async def test_a_session_that_has_seen_more_than_the_server_is_told_so(container: ContainerProxy) -> None:
    written = await container.create_item({"id": "a", "pk": "p"})
    token = written.get_response_headers()["x-ms-session-token"]
    assert (await container.read_item("a", "p", session_token=token))["id"] == "a"
    range_id = token.partition(":")[0]
    assert await status_of(container.read_item("a", "p", session_token=f"{range_id}:-1#999")) == (404, 1002)


async def test_read_items_returns_what_exists(container: ContainerProxy) -> None:
    for number in range(30):
        await container.create_item({"id": f"d{number}", "pk": f"p{number}"})
    found = await container.read_items([(f"d{number}", f"p{number}") for number in range(0, 40, 2)])
    assert {document["id"] for document in found} == {f"d{number}" for number in range(0, 30, 2)}


async def test_a_hierarchical_key_addresses_documents_by_all_and_queries_by_its_prefix(database: DatabaseProxy) -> None:
    container = await database.create_container(
        "tree", PartitionKey(["/tenant", "/user", "/day"], kind="MultiHash"), offer_throughput=18_000
    )
    for tenant in "ab":
        for user in "xy":
            for day in (1, 2):
                await container.create_item({"id": "same", "tenant": tenant, "user": user, "day": day})
    document = await container.read_item("same", ["a", "y", 2])
    assert (document["tenant"], document["user"], document["day"]) == ("a", "y", 2)
    assert len([d async for d in container.query_items("SELECT * FROM c", partition_key=["a"])]) == 4
    assert len([d async for d in container.query_items("SELECT * FROM c", partition_key=["a", "x"])]) == 2
    assert len([d async for d in container.query_items("SELECT * FROM c", partition_key=["a", "x", 1])]) == 1
    feed = container.query_items_change_feed(partition_key=["b"], start_time="Beginning")
    assert {d["tenant"] async for d in feed} == {"b"}
