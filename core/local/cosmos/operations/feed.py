"""Reads the change feed of a physical partition."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import bad_request
from core.local.cosmos.state.epk import MAX_EPK, MIN_EPK
from core.local.cosmos.values import UNDEFINED, walk, whole_number

if TYPE_CHECKING:
    from core.local.cosmos.state.partition import HistoryEntry, PhysicalPartition

MAX_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FeedQuery:
    """What part of a partition's feed is asked for.

    Only changes after LSN `after` and, where `since` (seconds since the epoch) is given, not older than that, of
    documents with an effective partition key in `[minimum, maximum)`, or of the logical partition `key`.
    """

    after: int
    since: float | None = None
    limit: int = 100
    minimum: str = MIN_EPK
    maximum: str = MAX_EPK
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Changes as JSON, oldest first, and the LSN to continue after."""

    items: list[bytes]
    lsn: int


def position(if_none_match: str | None, current: int) -> int:
    """Return the LSN that a continuation names: `*` is now, None the beginning.

    Raises:
        CosmosError: 400 for a token that no feed gave out.
    """
    if if_none_match is None:
        return 0
    text = if_none_match.strip().strip('"')
    if text == "*":
        return current
    lsn = whole_number(text)
    if lsn is None:
        message = f"The continuation {if_none_match!r} is not valid."
        raise bad_request(message)
    return lsn


def start_time(if_modified_since: str | None) -> float | None:
    """Return the seconds since the epoch of an If-Modified-Since header.

    Raises:
        CosmosError: 400 for a malformed date.
    """
    if if_modified_since is None:
        return None
    try:
        return parsedate_to_datetime(if_modified_since).timestamp()
    except (ValueError, OverflowError) as error:
        message = f"The date {if_modified_since!r} of If-Modified-Since is not valid."
        raise bad_request(message) from error


def latest_versions(partition: PhysicalPartition, query: FeedQuery) -> FeedPage:
    """Return the next page of latest versions; a transaction (one LSN) is never split over two pages."""
    items: list[bytes] = []
    size = 0
    lsn = query.after
    everything = query.minimum <= partition.minimum and partition.maximum <= query.maximum
    for document in partition.changed_after(query.after):
        if document.lsn != lsn:
            if len(items) >= query.limit or size >= MAX_PAGE_BYTES:
                return FeedPage(items, lsn)
            lsn = document.lsn
        if query.key is not None and document.key != query.key:
            continue
        if not everything and not query.minimum <= document.epk < query.maximum:
            continue
        if query.since is not None and document.ts < query.since:
            continue
        items.append(b'%b,"_lsn":%d}' % (document.raw[:-1], document.lsn))
        size += len(document.raw)
    return FeedPage(items, max(partition.lsn, query.after))


def all_versions(partition: PhysicalPartition, query: FeedQuery, key_paths: list[tuple[str, ...]]) -> FeedPage:
    """Return the next page of every change, deletes and expiries included, of a container with the key `key_paths`.

    Raises:
        CosmosError: 400 if the continuation is older than what is retained.
    """
    if query.after < partition.history_start:
        raise bad_request(
            "The change feed of all versions and deletes starts now or at a continuation within its retention."
        )
    items: list[bytes] = []
    lsn, size = query.after, 0
    for entry in partition.history_after(query.after):
        if entry.lsn != lsn:
            if len(items) >= query.limit or size >= MAX_PAGE_BYTES:
                return FeedPage(items, lsn)
            lsn = entry.lsn
        if query.minimum <= entry.document.epk < query.maximum and query.key in {None, entry.document.key}:
            items.append(_version(entry, key_paths))
            size += len(items[-1])
    return FeedPage(items, max(partition.lsn, query.after))


def _version(entry: HistoryEntry, key_paths: list[tuple[str, ...]]) -> bytes:
    metadata: dict[str, Any] = {"lsn": entry.lsn, "crts": int(entry.time)}
    if entry.new is not None and entry.old is None:
        metadata["operationType"] = "create"
        return orjson.dumps({"current": orjson.Fragment(entry.new), "metadata": metadata})
    metadata["previousImageLSN"] = entry.previous_lsn
    if entry.new is not None:
        metadata["operationType"] = "replace"
        return orjson.dumps({"current": orjson.Fragment(entry.new), "metadata": metadata})
    metadata["operationType"] = "delete"
    if entry.expired:
        metadata["timeToLiveExpired"] = True
    # The service leaves out the previous version where it does not have it, but never which document it was.
    old = orjson.loads(entry.old or b"{}")
    key = {"/".join(path): walk(old, path) for path in key_paths}
    metadata["id"] = old.get("id")
    metadata["partitionKey"] = {name: value for name, value in key.items() if value is not UNDEFINED}
    previous = orjson.Fragment(entry.old or b"{}")
    return orjson.dumps({"current": {}, "previous": previous, "metadata": metadata})
