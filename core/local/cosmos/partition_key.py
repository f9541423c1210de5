"""Reads partition keys out of documents and request headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.epk import KeyComponent, PartitionKeyValue, effective_partition_key
from core.local.cosmos.errors import bad_request
from core.local.cosmos.values import UNDEFINED, exact, split_path, walk

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LEVELS = 3


class PartitionKeyDefinition:
    """The `partitionKey` of a container: its paths, kind (`Hash`, `MultiHash`) and hash version (1, 2)."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        paths = definition.get("paths")
        if not isinstance(paths, list) or not paths or not all(isinstance(p, str) and p.startswith("/") for p in paths):
            raise bad_request("The partition key definition must name at least one path that starts with '/'.")
        self.paths = [split_path(path) for path in paths]
        self.kind = str(definition.get("kind", "Hash"))
        self.version = int(definition.get("version", 1))
        if self.kind not in {"Hash", "MultiHash"} or self.version not in {1, 2}:
            raise bad_request("The partition key definition's kind or version is not known.")
        if len(paths) > (MAX_LEVELS if self.kind == "MultiHash" else 1):
            raise bad_request("Too many partition key paths for this kind of partition key.")
        self._single = self.paths[0][0] if len(self.paths) == 1 and len(self.paths[0]) == 1 else None

    def of_document(self, document: dict[str, Any]) -> PartitionKeyValue:
        """Return the partition key value of a document."""
        if self._single is not None:
            value = document.get(self._single, UNDEFINED)
            return (_component(value),)
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
        if not values and len(self.paths) == 1:
            return (UNDEFINED,)
        return tuple([_header_component(value, header) for value in values])

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
    if type(value) is float and value.is_integer():
        return int(value)
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
