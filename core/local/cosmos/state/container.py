"""Holds a container: its settings, its physical partitions and which of them a key belongs to."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import bad_request, gone
from core.local.cosmos.sql.computed import checked
from core.local.cosmos.state.epk import HASH_SPACE_V2, MAX_EPK, MIN_EPK, even_boundaries
from core.local.cosmos.state.partition import Change, Document, PhysicalPartition
from core.local.cosmos.state.partition_key import PartitionKeyDefinition
from core.local.cosmos.state.unique_keys import unique_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.cosmos.clock import Clock
    from core.local.cosmos.sql.computed import Computed
    from core.local.cosmos.state.journal import Journal

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
        self.number = int.from_bytes(rid_bytes[4:], "big") & 0x7FFFFFFF  # no other container of the account has it
        self.self_link = self_link
        self.path = ""
        self.key_definition = PartitionKeyDefinition(properties.get("partitionKey") or SYSTEM_KEY)
        self.unique_keys = unique_keys(properties)
        self.default_ttl: int | None = None
        # Kept from the first all-versions request on: nobody can ask for what came before it.
        self.keeps_history = False
        self._current = self  # what a copy, which shows the past, is of
        self.journal: Journal | None = None  # the file that keeps what is here, if there is one
        self.properties: dict[str, Any] = {}
        self.computed: Computed = ()
        self.configure(properties)
        self.last_rid = 0
        self.next_range = ranges
        self._expiring: list[tuple[float, str, int]] = []  # when, and which document by its key and number
        bounds = even_boundaries(ranges, self.key_definition.kind, self.key_definition.version)
        self.arrange([PhysicalPartition(str(i), bounds[i], bounds[i + 1]) for i in range(ranges)])
        self.generation = 1

    def arrange(self, partitions: list[PhysicalPartition]) -> None:
        """Replace the physical partitions by others, which together hold every key, in the order of their ranges."""
        self.partitions = partitions
        self._minima = [partition.minimum for partition in partitions]
        self._by_id = {partition.id: partition for partition in partitions}

    def configure(self, properties: dict[str, Any]) -> None:
        """Take over what may change in a container's life: TTL, indexing, computed properties.

        Raises:
            CosmosError: 400 for a TTL, an indexing policy or a computed property that is not allowed, 500 if they
                could not be stored.
        """
        default_ttl = valid_ttl(properties["defaultTtl"]) if properties.get("defaultTtl") is not None else None
        complete = {**properties, "indexingPolicy": _indexing(properties.get("indexingPolicy"))}
        computed = checked(properties.get("computedProperties") or [])
        complete.setdefault("partitionKey", SYSTEM_KEY)
        complete.setdefault("conflictResolutionPolicy", _LAST_WRITER_WINS)
        complete.setdefault("geospatialConfig", {"type": "Geography"})
        if self.journal is not None:
            self.journal.container_changed(self, complete)
        self.default_ttl, self.properties, self.computed = default_ttl, complete, computed

    def restart_expiry(self) -> None:
        """Compute when each document expires, after the container's TTL has changed."""
        self._expiring = []
        if self.default_ttl is None:
            for document in self.documents():
                document.expires = None
            return
        for document in self.documents():
            # One that is not allowed was written while the container had no TTL, when nobody looked at it.
            own = orjson.loads(document.raw).get("ttl") if b'"ttl":' in document.raw else None
            document.expires = self.expiry({"ttl": own} if _is_ttl(own) else {}, document.ts)
            self.watch(document)

    def next_rid(self) -> int:
        """Return the number of the next document; numbers grow and are never used again."""
        self.last_rid += 1
        return self.last_rid

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
        heapq.heappush(self._expiring, (document.expires, document.epk, document.rid))
        if len(self._expiring) > 2 * sum(len(p.by_rid) for p in self.partitions) + 1024:
            self._expiring = [(d.expires, d.epk, d.rid) for d in self.documents() if d.expires is not None]
            heapq.heapify(self._expiring)

    def expire(self) -> None:
        """Delete the documents whose time has come.

        Raises:
            CosmosError: 500 if that could not be stored.
        """
        if not self._expiring:
            return
        now = self.clock.now()
        while self._expiring and self._expiring[0][0] <= now:
            _, epk, rid = self._expiring[0]
            partition = self.partition_of(epk)
            document = partition.by_rid.get(rid)
            if document is not None and document.expires is not None and document.expires <= now:
                change = Change(document, None, ttl_expired=True)
                partition.put(change)
                try:
                    self.commit(partition, [change], now)
                except BaseException:
                    partition.revert(change)
                    raise
            heapq.heappop(self._expiring)

    def commit(self, partition: PhysicalPartition, changes: list[Change], now: float) -> int:
        """Store applied changes, then show them under one new LSN and return it: the only way documents change.

        Raises:
            CosmosError: 500 if they could not be stored; nothing was committed, and the caller reverts them.
        """
        trimmed = partition.trim_history()
        if self.journal is not None:
            self.journal.documents_changed(self, partition, changes, now, trimmed=trimmed)
        lsn = partition.commit(changes, now, keep_history=self.keeps_history)
        for change in changes:
            if change.new is not None and change.new.expires is not None:
                self.watch(change.new)
        return lsn

    def keep_history(self) -> None:
        """Keep every change from now on for the feed of all versions and deletes.

        Raises:
            CosmosError: 500 if that could not be stored.
        """
        if not self._current.keeps_history:
            if self.journal is not None:
                self.journal.history_kept(self)
            self._current.keeps_history = True

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
            CosmosError: 410 for an unknown range, 400 for a boundary outside of it, 500 if it could not be stored.
        """
        parent = self.partition_by_id(range_id)
        cut = middle(parent, self.key_definition) if boundary is None else boundary
        if not parent.minimum < cut < parent.maximum:
            message = f"{cut!r} does not split the partition key range {range_id}."
            raise bad_request(message)
        first, second = str(self.next_range), str(self.next_range + 1)
        children = [parent.child(first, parent.minimum, cut), parent.child(second, cut, parent.maximum)]
        for child in children:
            child.generation = self.generation + 1
        if self.journal is not None:
            self.journal.partitions_replaced(self, [parent], children)
        self.generation += 1
        self.next_range += len(children)
        position = self.partitions.index(parent)
        self.arrange([*self.partitions[:position], *children, *self.partitions[position + 1 :]])
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
    if isinstance(ttl, int) and _is_ttl(ttl):
        return ttl
    message = (
        f"The input ttl '{ttl}' is invalid. Ensure to provide a nonzero positive integer less than or equal to "
        f"'{MAX_TTL}', or '-1' which means never expire."
    )
    raise bad_request(message)


def _is_ttl(ttl: object) -> bool:
    return isinstance(ttl, int) and not isinstance(ttl, bool) and (ttl == -1 or 0 < ttl <= MAX_TTL)


def _indexing(policy: object) -> dict[str, Any]:
    if policy is None:
        return DEFAULT_INDEXING
    if not isinstance(policy, dict):
        raise bad_request("The indexing policy is not valid.")
    mode = str(policy.get("indexingMode", "consistent")).lower()
    complete = {**policy, "indexingMode": mode, "automatic": policy.get("automatic", True)}
    if mode == "none":
        return complete
    complete["includedPaths"] = _paths(policy, "includedPaths") or DEFAULT_INDEXING["includedPaths"]
    excluded = _paths(policy, "excludedPaths")
    etag = DEFAULT_INDEXING["excludedPaths"][0]
    complete["excludedPaths"] = excluded if etag in excluded else [*excluded, etag]
    return complete


def _paths(policy: dict[str, Any], name: str) -> list[dict[str, Any]]:
    paths = policy.get(name) or []
    if not isinstance(paths, list) or not all(isinstance(p, dict) and isinstance(p.get("path"), str) for p in paths):
        message = f"The {name} of the indexing policy are not valid."
        raise bad_request(message)
    # Old clients name kinds of index; a path is indexed or it is not.
    return [{key: value for key, value in path.items() if key != "indexes"} for path in paths]


_LAST_WRITER_WINS = {"mode": "LastWriterWins", "conflictResolutionPath": "/_ts", "conflictResolutionProcedure": ""}


SYSTEM_KEY: dict[str, Any] = {"paths": ["/_partitionKey"], "kind": "Hash", "version": 2, "systemKey": True}


def _width(partition: PhysicalPartition) -> int:
    low = int((partition.minimum or "0").ljust(32, "0")[:32], 16)
    return (HASH_SPACE_V2 if partition.maximum == MAX_EPK else int(partition.maximum.ljust(32, "0")[:32], 16)) - low
