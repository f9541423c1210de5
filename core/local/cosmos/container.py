"""Holds a container: its settings, its physical partitions and which of them a key belongs to."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from core.local.cosmos.epk import HASH_SPACE_V2, MAX_EPK, MIN_EPK, even_boundaries
from core.local.cosmos.errors import bad_request, gone
from core.local.cosmos.partition import Change, Document, PhysicalPartition
from core.local.cosmos.partition_key import PartitionKeyDefinition
from core.local.cosmos.values import split_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.cosmos.clock import Clock

DEFAULT_INDEXING: dict[str, Any] = {
    "indexingMode": "consistent",
    "automatic": True,
    "includedPaths": [{"path": "/*"}],
    "excludedPaths": [{"path": '/"_etag"/?'}],
}
MAX_TTL = 2147483647


class Container:
    """A container and all its documents; `rid_bytes` are its 8-byte resource id."""

    def __init__(self, properties: dict[str, Any], rid_bytes: bytes, self_link: str, ranges: int, clock: Clock) -> None:
        self.clock = clock
        self.rid_bytes = rid_bytes
        self.self_link = self_link
        self.path = ""
        self.key_definition = PartitionKeyDefinition(properties.get("partitionKey") or SYSTEM_KEY)
        self.unique_keys = _unique_keys(properties)
        self.default_ttl: int | None = None
        # Kept from the first all-versions request on: nobody can ask for what came before it.
        self.keeps_history = False
        self.properties: dict[str, Any] = {}
        self.configure(properties)
        self._last_rid = 0
        self._next_range = ranges
        self._expiring: list[tuple[float, int, Document]] = []
        self._watched = 0
        bounds = even_boundaries(ranges, self.key_definition.kind, self.key_definition.version)
        self.partitions = [PhysicalPartition(str(i), bounds[i], bounds[i + 1]) for i in range(ranges)]
        self.generation = 1
        self._index()

    def _index(self) -> None:
        self._minima = [partition.minimum for partition in self.partitions]
        self._by_id = {partition.id: partition for partition in self.partitions}

    def configure(self, properties: dict[str, Any]) -> None:
        """Take over what may change in a container's life: TTL and indexing.

        Raises:
            CosmosError: 400 for a TTL that is not allowed.
        """
        self.default_ttl = valid_ttl(properties["defaultTtl"]) if properties.get("defaultTtl") is not None else None
        self.properties = dict(properties)
        self.properties["indexingPolicy"] = _indexing(properties.get("indexingPolicy"))
        self.properties.setdefault("partitionKey", SYSTEM_KEY)
        self.properties.setdefault("conflictResolutionPolicy", _LAST_WRITER_WINS)
        self.properties.setdefault("geospatialConfig", {"type": "Geography"})

    def restart_expiry(self) -> None:
        """Compute when each document expires, after the container's TTL has changed."""
        self._expiring = []
        for partition in self.partitions:
            for document in partition.by_rid.values():
                document.expires = self.expiry(document.body, document.ts)
                self.watch(document)

    def next_rid(self) -> int:
        """Return the number of the next document; numbers grow and are never used again."""
        self._last_rid += 1
        return self._last_rid

    def expiry(self, body: dict[str, Any], ts: int) -> float | None:
        """Return when a document written at `ts` expires (seconds since the epoch), None for never.

        Raises:
            CosmosError: 400 for a `ttl` that is not allowed.
        """
        if self.default_ttl is None:
            return None
        ttl = valid_ttl(body["ttl"]) if "ttl" in body else self.default_ttl
        return None if ttl == -1 else ts + ttl

    def watch(self, document: Document) -> None:
        """Expire a committed document when its time comes."""
        if document.expires is None:
            return
        self._watched += 1
        heapq.heappush(self._expiring, (document.expires, self._watched, document))
        if len(self._expiring) > 2 * sum(len(p.by_rid) for p in self.partitions) + 1024:
            self._expiring = [entry for entry in self._expiring if entry[2].live]
            heapq.heapify(self._expiring)

    def expire(self) -> None:
        """Delete the documents whose time has come."""
        if not self._expiring:
            return
        now = self.clock.now()
        while self._expiring and self._expiring[0][0] <= now:
            document = heapq.heappop(self._expiring)[2]
            if document.live:
                partition = self.partition_of(document.epk)
                change = Change(document, None, ttl_expired=True)
                partition.put(change)
                partition.commit([change], now, keep_history=self.keeps_history)

    def partition_of(self, epk: str) -> PhysicalPartition:
        """Return the physical partition that an effective partition key belongs to."""
        return self.partitions[bisect_right(self._minima, epk) - 1]

    def partition_by_id(self, range_id: str) -> PhysicalPartition:
        """Return a physical partition by its range id.

        Raises:
            CosmosError: 410/1002 if the range was split or never existed.
        """
        partition = self._by_id.get(range_id)
        if partition is None:
            message = f"The requested resource is no longer available at the server: partition key range {range_id}."
            raise gone(message)
        return partition

    def overlapping(self, minimum: str = MIN_EPK, maximum: str = MAX_EPK) -> list[PhysicalPartition]:
        """Return the physical partitions that share keys with `[minimum, maximum)`."""
        return [p for p in self.partitions if p.minimum < maximum and minimum < p.maximum]

    def documents(self) -> Iterator[Document]:
        """Iterate over all documents."""
        for partition in self.partitions:
            yield from partition.by_rid.values()

    def grow(self, count: int) -> None:
        """Split the widest partitions until there are at least `count`."""
        while len(self.partitions) < count:
            self.split(max(self.partitions, key=_width).id)

    def split(self, range_id: str, boundary: str | None = None) -> list[PhysicalPartition]:
        """Split a physical partition in two at `boundary` (its middle by default) and return the children.

        Raises:
            CosmosError: 410 for an unknown range, 400 for a boundary outside of it.
        """
        parent = self.partition_by_id(range_id)
        cut = middle(parent, self.key_definition) if boundary is None else boundary
        if not parent.minimum < cut < parent.maximum:
            message = f"{cut!r} does not split the partition key range {range_id}."
            raise bad_request(message)
        first, second = str(self._next_range), str(self._next_range + 1)
        self._next_range += 2
        children = [parent.child(first, parent.minimum, cut), parent.child(second, cut, parent.maximum)]
        position = self.partitions.index(parent)
        self.partitions[position : position + 1] = children
        self.generation += 1
        for child in children:
            child.generation = self.generation
        self._index()
        return children


def middle(partition: PhysicalPartition, definition: PartitionKeyDefinition) -> str:
    """Return the effective partition key that halves a range."""
    if definition.kind == "Hash" and definition.version == 1:
        bounds = even_boundaries(1 << 12, definition.kind, definition.version)
        inside = [bound for bound in bounds if partition.minimum < bound < partition.maximum]
        if not inside:
            message = f"The partition key range {partition.id} is too small to split."
            raise bad_request(message)
        return inside[len(inside) // 2]
    low = int((partition.minimum or "0").ljust(32, "0")[:32], 16)
    return f"{low + _width(partition) // 2:032X}"


def valid_ttl(ttl: object) -> int:
    """Return a time to live in seconds, -1 for none.

    Raises:
        CosmosError: 400 if it is neither -1 nor a positive 32-bit integer.
    """
    if isinstance(ttl, int) and not isinstance(ttl, bool) and (ttl == -1 or 0 < ttl <= MAX_TTL):
        return ttl
    message = (
        f"The input ttl '{ttl}' is invalid. Ensure to provide a nonzero positive integer less than or equal to "
        f"'{MAX_TTL}', or '-1' which means never expire."
    )
    raise bad_request(message)


def _indexing(policy: object) -> dict[str, Any]:
    if policy is None:
        return DEFAULT_INDEXING
    if not isinstance(policy, dict):
        raise bad_request("The indexing policy is not valid.")
    mode = str(policy.get("indexingMode", "consistent")).lower()
    complete = {**policy, "indexingMode": mode, "automatic": policy.get("automatic", True)}
    if mode == "none":
        return complete
    complete["includedPaths"] = policy.get("includedPaths") or DEFAULT_INDEXING["includedPaths"]
    excluded = list(policy.get("excludedPaths") or [])
    etag = DEFAULT_INDEXING["excludedPaths"][0]
    complete["excludedPaths"] = excluded if etag in excluded else [*excluded, etag]
    return complete


_LAST_WRITER_WINS = {"mode": "LastWriterWins", "conflictResolutionPath": "/_ts", "conflictResolutionProcedure": ""}


SYSTEM_KEY: dict[str, Any] = {"paths": ["/_partitionKey"], "kind": "Hash", "version": 2, "systemKey": True}


def _width(partition: PhysicalPartition) -> int:
    low = int((partition.minimum or "0").ljust(32, "0")[:32], 16)
    return (HASH_SPACE_V2 if partition.maximum == MAX_EPK else int(partition.maximum.ljust(32, "0")[:32], 16)) - low


def _unique_keys(properties: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    policy = properties.get("uniqueKeyPolicy")
    if not policy:
        return []
    keys = policy.get("uniqueKeys") if isinstance(policy, dict) else None
    if not isinstance(keys, list) or not all(isinstance(k, dict) and isinstance(k.get("paths"), list) for k in keys):
        message = "The unique key policy is not valid."
        raise bad_request(message)
    return [[split_path(str(path)) for path in key["paths"]] for key in keys]
