"""Reads partition keys out of documents and request headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import bad_request
from core.local.cosmos.state.epk import KeyComponent, PartitionKeyValue, effective_partition_key
from core.local.cosmos.values import UNDEFINED, exact, split_path, walk

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LEVELS = 3
MAX_KEY_BYTES = 2048


class PartitionKeyDefinition:
    """The `partitionKey` of a container: its paths, kind (`Hash`, `MultiHash`) and hash version (1, 2)."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        paths = definition.get("paths") if isinstance(definition, dict) else None
        if not isinstance(paths, list) or not paths or not all(isinstance(p, str) and p.startswith("/") for p in paths):
            raise bad_request("The partition key definition must name at least one path that starts with '/'.")
        self.paths = [split_path(path) for path in paths]
        self.kind = str(definition.get("kind", "Hash"))
        self.version = definition.get("version", 1)
        # What a document of a container that never had a key lacks is no component: its key is empty.
        self.system = definition.get("systemKey") is True
        if any(
            path.endswith("/") or "*" in parts or "" in parts for path, parts in zip(paths, self.paths, strict=True)
        ):
            raise bad_request("A partition key path must have neither an empty part, a trailing slash nor a wildcard.")
        if len(set(self.paths)) < len(self.paths):
            raise bad_request("The paths of a partition key definition must differ.")
        if (self.kind, self.version) not in [("Hash", 1), ("Hash", 2), ("MultiHash", 2)]:
            raise bad_request("The partition key definition's kind or version is not known.")
        if len(paths) > (MAX_LEVELS if self.kind == "MultiHash" else 1):
            raise bad_request("Too many partition key paths for this kind of partition key.")
        self._single = self.paths[0][0] if len(self.paths) == 1 and len(self.paths[0]) == 1 else None

    def of_document(self, document: dict[str, Any]) -> PartitionKeyValue:
        """Return the partition key value of a document."""
        if self._single is not None:
            value = document.get(self._single, UNDEFINED)
            return () if self.system and value is UNDEFINED else (_component(value),)
        return tuple([_component(walk(document, path)) for path in self.paths])

    def of_header(self, header: str | None) -> PartitionKeyValue | None:
        """Return the value of an `x-ms-documentdb-partitionkey` header, None where there is none."""
        if header is None:
            return None
        try:
            values = orjson.loads(header)
        except orjson.JSONDecodeError as error:
            message = f"Partition key {header} is invalid."
            raise bad_request(message) from error
        if not isinstance(values, list) or len(values) > len(self.paths):
            message = f"Partition key {header} is invalid."
            raise bad_request(message)
        if self.system and values in ([], [{}]):
            return ()
        if not values and len(self.paths) == 1:
            return (UNDEFINED,)
        if len(header) > MAX_KEY_BYTES and sum(len(v.encode()) for v in values if isinstance(v, str)) > MAX_KEY_BYTES:
            message = f"The partition key is longer than {MAX_KEY_BYTES} bytes."
            raise bad_request(message)
        return tuple([_header_component(value, header) for value in values])

    def is_whole(self, key: PartitionKeyValue) -> bool:
        """Say whether a key names one logical partition, and not only a prefix of a hierarchical key."""
        return len(key) == len(self.paths) or (self.system and not key)

    def epk(self, key: PartitionKeyValue) -> str:
        """Return the effective partition key."""
        return effective_partition_key(key, self.kind, self.version)


def canonical(key: PartitionKeyValue) -> bytes:
    """Return bytes that are equal exactly for equal partition keys."""
    return exact(orjson.dumps([_canonical(value) for value in key]))


def _canonical(value: KeyComponent) -> object:
    if type(value) is str:
        return value
    if value is UNDEFINED:
        return {}
    if type(value) is int or type(value) is float:
        return value + 0.0  # a number is a double, whatever its spelling, and a negative zero is zero
    return value


def _component(value: Any) -> KeyComponent:  # noqa: ANN401 - JSON
    if value is None or isinstance(value, str | int | float):
        return value
    return UNDEFINED


def _header_component(value: Any, header: str) -> KeyComponent:  # noqa: ANN401 - JSON
    if value == {}:
        return UNDEFINED
    if isinstance(value, dict | list):
        message = f"Partition key {header} is invalid."
        raise bad_request(message)
    return _component(value)
