"""Effective partition keys agree with the SDK's, and ranges divide the key space."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from azure.cosmos import PartitionKey
from hypothesis import given
from hypothesis import strategies as st

from core.local.cosmos.epk import MAX_EPK, effective_partition_key, even_boundaries

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


@given(st.one_of(st.text(min_size=1, max_size=120), st.booleans(), numbers))
def test_a_hash_key_of_version_one_is_the_sdks(value: Any) -> None:
    expected = str(PartitionKey("/k", version=1)._get_effective_partition_key_string([value]))
    assert effective_partition_key((value,), "Hash", 1) == expected.upper()


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
