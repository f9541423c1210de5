"""Partial updates: what each operation does to a document, and what no patch may touch.

The expected outcomes are those of Microsoft's page on partial document updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.core import MatchConditions
from azure.cosmos import PartitionKey
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy, DatabaseProxy

Operation = dict[str, Any]


def op(name: str, path: str, value: Any = None, **more: Any) -> Operation:
    return {"op": name, "path": path, "value": value, **more}


def move(source: str, path: str) -> Operation:
    return {"op": "move", "from": source, "path": path}


async def patched(container: ContainerProxy, start: dict[str, Any], *operations: Operation) -> Any:
    """Return what becomes of `start`, without its keys, or the status of the refusal; a refusal changes nothing."""
    before = await container.upsert_item({"id": "a", "pk": "p", **start})
    try:
        after: Any = await container.patch_item("a", "p", list(operations))
    except CosmosHttpResponseError as error:
        assert (await container.read_item("a", "p"))["_etag"] == before["_etag"]
        return error.status_code
    assert after["_etag"] != before["_etag"]
    return {name: value for name, value in after.items() if not name.startswith("_") and name not in {"id", "pk"}}


async def test_an_operation_does_what_is_documented(container: ContainerProxy) -> None:
    two = {"l": [1, 2]}
    cases: list[tuple[dict[str, Any], Operation, Any]] = [
        ({}, op("add", "/a", 1), {"a": 1}),
        ({"a": 0}, op("add", "/a", 1), {"a": 1}),
        (two, op("add", "/l/0", 9), {"l": [9, 1, 2]}),
        (two, op("add", "/l/2", 9), {"l": [1, 2, 9]}),
        (two, op("add", "/l/-", 9), {"l": [1, 2, 9]}),
        (two, op("add", "/l/3", 9), 400),
        (two, op("add", "/l/01", 9), 400),
        (two, op("add", "/l/x", 9), 400),
        ({}, op("add", "/a/b", 1), 400),
        ({"a": 5}, op("add", "/a/b", 1), 400),
        (two, op("set", "/l/0", 9), {"l": [9, 2]}),
        ({}, op("set", "/a", None), {"a": None}),
        ({"a": {"b": 1}}, op("set", "/a/c", [2]), {"a": {"b": 1, "c": [2]}}),
        (two, op("replace", "/l/1", 9), {"l": [1, 9]}),
        (two, op("replace", "/l/2", 9), 400),
        ({}, op("replace", "/a", 1), 400),
        (two, op("remove", "/l/0"), {"l": [2]}),
        (two, op("remove", "/l/2"), 400),
        ({}, op("remove", "/a"), 400),
        ({"a": 5}, op("incr", "/a", -7), {"a": -2}),
        ({"a": 5}, op("incr", "/a", 0.5), {"a": 5.5}),
        ({}, op("incr", "/a", 3), {"a": 3}),
        (two, op("incr", "/l/1", 3), {"l": [1, 5]}),
        ({"a": "5"}, op("incr", "/a", 1), 400),
        ({"a": 5}, op("incr", "/a", "1"), 400),
        ({"a": 1}, move("/a", "/b"), {"b": 1}),
        ({"a": 1, "b": 2}, move("/a", "/b"), {"b": 1}),
        ({"a": {"b": 1}}, move("/a", "/a/b"), 400),
        ({}, move("/a", "/b"), 400),
        ({"a~/b": 1}, op("set", "/a~0~1b", 2), {"a~/b": 2}),
        ({}, op("set", "a", 1), 400),
        ({}, op("set", "/", 1), 400),
        ({}, op("copy", "/a", 1), 400),
        ({}, {"op": "set", "path": "/a"}, 400),
    ]
    outcomes = [await patched(container, start, operation) for start, operation, _ in cases]
    wrong = [(case, outcome) for case, outcome in zip(cases, outcomes, strict=True) if outcome != case[2]]
    assert wrong == []


async def test_an_increment_past_64_bits_is_a_double_and_past_doubles_refused(container: ContainerProxy) -> None:
    assert await patched(container, {"n": 2**63}, op("incr", "/n", 2**63)) == {"n": 2.0**64}
    assert await patched(container, {"n": 1e308}, op("incr", "/n", 1e308)) == 400


async def test_a_patch_has_at_most_ten_operations(container: ContainerProxy) -> None:
    assert await patched(container, {}, *[op("incr", "/n", 1)] * 10) == {"n": 10}
    assert await patched(container, {}, *[op("incr", "/n", 1)] * 11) == 400
    assert await patched(container, {}) == 400


async def test_keys_and_system_properties_are_fixed_and_their_neighbours_are_not(database: DatabaseProxy) -> None:
    container = await database.create_container("nested", PartitionKey("/k/pk"))
    await container.create_item({"id": "a", "k": {"pk": "p", "other": 1}, "x": "a"})
    fixed = ["/id", "/_ts", "/_etag", "/_rid", "/_self", "/k", "/k/pk", "/k/pk/x"]
    refused: list[list[Operation]] = [[op("set", path, "p")] for path in fixed]
    refused += [
        [op("remove", "/k")],
        [move("/id", "/y")],
        [move("/k/pk", "/y")],
        [move("/x", "/id")],
        [move("/_ts", "/y")],
    ]
    for operations in refused:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.patch_item("a", "p", operations)
        assert caught.value.status_code == 400, operations
    after = await container.patch_item("a", "p", [op("set", "/k/other", 2), op("set", "/ttl", 5)])
    assert (after["k"], after["ttl"]) == ({"pk": "p", "other": 2}, 5)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_patch_holds_to_its_etag_its_predicate_and_the_size_limit(container: ContainerProxy) -> None:
    document = await container.create_item({"id": "a", "pk": "p", "n": 1})
    known: Any = {"etag": document["_etag"], "match_condition": MatchConditions.IfNotModified}
    await container.patch_item("a", "p", [op("incr", "/n", 1)], filter_predicate="from c where c.n = 1", **known)
    attempts: list[tuple[Operation, dict[str, Any], int]] = [
        (op("incr", "/n", 1), known, 412),
        (op("incr", "/n", 1), {"filter_predicate": "from c where c.n = 1"}, 412),
        (op("incr", "/n", 1), {"filter_predicate": "where"}, 400),
        (op("set", "/x", "y" * 2_097_000), {}, 413),
    ]
    for operation, more, status in attempts:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.patch_item("a", "p", [operation], **more)
        assert caught.value.status_code == status
    with pytest.raises(CosmosHttpResponseError) as caught:
        await container.patch_item("missing", "p", [op("set", "/n", 1)])
    assert caught.value.status_code == 404
