"""Reads a container's unique keys, and what a document holds under them."""

from __future__ import annotations

from typing import Any, TypeAlias

import orjson

from core.local.cosmos.errors import bad_request
from core.local.cosmos.values import UNDEFINED, split_path, walk

MAX_KEYS = 10
MAX_PATHS = 16

UniqueKeys: TypeAlias = list[list[tuple[str, ...]]]
UniqueValues: TypeAlias = tuple[tuple[object, ...], ...]


def unique_keys(properties: dict[str, Any]) -> UniqueKeys:
    """Return the paths of each unique key that a container's properties name.

    Raises:
        CosmosError: 400 for a policy that is not valid.
    """
    policy = properties.get("uniqueKeyPolicy")
    if not policy:
        return []
    keys = policy.get("uniqueKeys") if isinstance(policy, dict) else None
    if not isinstance(keys, list) or not all(isinstance(k, dict) and isinstance(k.get("paths"), list) for k in keys):
        message = "The unique key policy is not valid."
        raise bad_request(message)
    found = [[split_path(str(path)) for path in key["paths"]] for key in keys]
    starts = all(str(path).startswith("/") for key in keys for path in key["paths"])
    if not starts or len(found) > MAX_KEYS or not all(0 < len(key) <= MAX_PATHS for key in found):
        message = f"A unique key policy has at most {MAX_KEYS} keys of 1 to {MAX_PATHS} paths that start with '/'."
        raise bad_request(message)
    if any(found.count(key) > 1 or len(set(key)) < len(key) for key in found):
        raise bad_request("The keys of a unique key policy, and the paths of a key, must differ.")
    return found


def unique_values(keys: UniqueKeys, body: dict[str, Any]) -> UniqueValues:
    """Return what a document holds under the paths of each unique key."""
    return tuple([tuple([_comparable(walk(body, path)) for path in paths]) for paths in keys])


def _comparable(value: object) -> bytes:
    # A missing value counts as null, as documented.
    if value is UNDEFINED:
        return b"null"
    if type(value) is int or type(value) is float:
        value += 0.0  # 1 and 1.0 are the same number
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
