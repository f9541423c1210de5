"""Effective partition keys agree with the SDK's, and ranges divide the key space."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.partition_key import NonePartitionKeyValue, NullPartitionKeyValue
from hypothesis import given
from hypothesis import strategies as st

from core.local.cosmos.state.epk import MAX_EPK, effective_partition_key, even_boundaries
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from azure.cosmos.aio import DatabaseProxy

# A negative zero is the same key as zero here; the SDK hashes its sign.
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
components = st.one_of(st.text(max_size=120), st.booleans(), st.none(), numbers, st.integers(-(2**53), 2**53))


@given(components)
def test_a_hash_key_of_version_two_is_the_sdks(value: Any) -> None:
    expected = PartitionKey("/k")._get_effective_partition_key_string([value])
    assert effective_partition_key((value,), "Hash", 2) == expected


@given(st.lists(components, min_size=1, max_size=3))
def test_a_hierarchical_key_is_the_sdks(values: list[Any]) -> None:
    expected = PartitionKey(["/a", "/b", "/c"])._get_effective_partition_key_string(values)
    assert effective_partition_key(tuple(values), "MultiHash", 2) == expected


# The SDK wraps integers to 32 bits unsigned before it hashes them, which the service does not.
@given(st.one_of(st.text(max_size=120), st.booleans(), numbers, st.integers(0, 2**32 - 1)))
def test_a_hash_key_of_version_one_is_the_sdks(value: Any) -> None:
    expected = str(PartitionKey("/k", version=1)._get_effective_partition_key_string([value]))
    assert effective_partition_key((value,), "Hash", 1) == expected.upper()


def test_a_missing_key_is_the_sdks_and_not_null() -> None:
    for definition, kind, version in (
        (PartitionKey("/k"), "Hash", 2),
        (PartitionKey("/k", version=1), "Hash", 1),
        (PartitionKey(["/a", "/b"]), "MultiHash", 2),
    ):
        expected = str(definition._get_effective_partition_key_string([NonePartitionKeyValue])).upper()
        assert effective_partition_key((UNDEFINED,), kind, version) == expected
        assert effective_partition_key((None,), kind, version) != expected


@pytest.mark.parametrize("version", [1, 2])
async def test_the_range_that_the_sdk_computes_for_a_key_holds_its_document(
    database: DatabaseProxy, version: int
) -> None:
    container = await database.create_container("c", PartitionKey("/pk", version=version), offer_throughput=30_000)
    keys: list[Any] = ["", "a", "é" * 90, "\U0001f600" * 30, "x" * 101, True, False, 0, 7, -1.5, 1e300, 2.0**53]
    keys += [NullPartitionKeyValue, NonePartitionKeyValue]
    for index, key in enumerate(keys):
        body = {"id": str(index), "pk": None if key is NullPartitionKeyValue else key}
        if key is NonePartitionKeyValue:
            del body["pk"]
        await container.create_item(body)
    for index, key in enumerate(keys):
        feed_range = await container.feed_range_from_partition_key(key)
        found: Any = container.query_items("SELECT VALUE c.id FROM c", feed_range=feed_range)
        assert [id_ async for id_ in found] == [str(index)], key
        feed = container.query_items_change_feed(feed_range=feed_range, start_time="Beginning")
        assert [document["id"] async for document in feed] == [str(index)], key


@pytest.mark.parametrize(("kind", "version"), [("Hash", 1), ("Hash", 2), ("MultiHash", 2)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
def test_ranges_share_the_keys_evenly(kind: str, version: int, count: int) -> None:
    bounds = even_boundaries(count, kind, version)
    assert bounds == sorted(set(bounds))
    assert (bounds[0], bounds[-1]) == ("", MAX_EPK)
    keys = [effective_partition_key((f"key{n}",), kind, version) for n in range(500)]
    shares = [sum(low <= key < high for key in keys) for low, high in pairwise(bounds)]
    assert sum(shares) == 500
    assert min(shares) > 500 / count * 0.5


def test_five_ranges_have_the_boundaries_of_microsofts_emulator() -> None:
    assert even_boundaries(5, "Hash", 2)[3] == "26666666666666666666666666666664"
