"""Writes one watermark document into every feed range of a container, so that a reader knows how far it has read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from core.cosmos.failures import DRIVER_ERRORS, write_error
from core.cosmos.feed import feed_ranges
from core.envelope import internal_document
from core.identity import Identity
from core.mapping import RESERVED_ID_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.mapping import EntityMapping

WATERMARK_TTL_S = 30 * 24 * 3600
WATERMARK = "watermark"
"""The `crossfeed.kind` of these documents."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """A watermark that was written: its `_ts` (whole seconds since 1970), its `_etag` and its id."""

    ts: int
    etag: str
    id: str


async def write_watermarks(
    store: CosmosStore, mapping: EntityMapping[Any], epoch: int, ttl: int
) -> dict[str, Watermark]:
    """Write the watermark of an epoch into every feed range of the mapping's container.

    May be repeated: the same documents are written again, and come out of the feed again.

    Args:
        store: the opened database.
        mapping: whose container.
        epoch: the epoch that the watermarks open.
        ttl: how long they live, in seconds.

    Returns:
        What was written, by the key of its feed range (see `core.cosmos.feed.FeedRange`).

    Raises:
        StoreUnavailableError: Cosmos DB did not take one of them; some may have been written.
        OutcomeUnknownError: one of them was not answered; some may have been written.

    """
    return await write_marks(store, mapping, f"{WATERMARK}-{epoch}", ttl, partial(internal_document, WATERMARK, epoch))


async def write_marks(  # noqa: PLR0913 - what they are made from
    store: CosmosStore,
    mapping: EntityMapping[Any],
    name: str,
    ttl: int,
    mark: Callable[[Document], Document],
    *,
    held: Collection[str] = (),
) -> dict[str, Watermark]:
    """Write one document of ours into every feed range of the mapping's container.

    May be repeated: the same documents are written again, and come out of the feed again.

    Args:
        store: the opened database.
        mapping: whose container.
        name: what the ids of the documents begin with, after what all ids of ours begin with.
        ttl: how long they live, in seconds.
        mark: makes a document of ours from its key and TTL.
        held: the ids of those that are left as they are; their `_ts` is told as 0, their `_etag` as empty.

    Returns:
        What is in each, by the key of the feed range (see `core.cosmos.feed.FeedRange`).

    Raises:
        StoreUnavailableError: Cosmos DB did not take one of them; some may have been written.
        OutcomeUnknownError: one of them was not answered; some may have been written.

    """
    container = store.container(mapping)
    open_ranges = {item.key: item.token for item in await feed_ranges(container)}
    written: dict[str, Watermark] = {}
    try:
        for probe in count():
            if not open_ranges:
                break
            id_ = f"{RESERVED_ID_PREFIX}{name}-{probe}"
            identity = Identity.of(mapping.name, [id_] * len(mapping.paths), id_)
            point = await container.feed_range_from_partition_key(list(identity.parts))
            for key, token in open_ranges.items():
                if await container.is_feed_range_subset(dict(token), point):
                    if id_ in held:
                        written[key] = Watermark(0, "", id_)
                    else:
                        stored = await container.upsert_item(mark(mapping.placeholder(identity, ttl)))
                        written[key] = Watermark(int(stored["_ts"]), str(stored["_etag"]), id_)
                    del open_ranges[key]
                    break
    except DRIVER_ERRORS as error:
        raise write_error(error, f"writing {name} to {mapping.container!r}") from error
    return written
