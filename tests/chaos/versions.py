"""Follows the change feed of all versions and deletes of a container, which hides no intermediate state."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from core.cosmos.feed import feed_ranges
from core.envelope import is_internal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from azure.cosmos.aio import ContainerProxy


class Versions:
    """Every version of every document of a container since `open` was called.

    Args:
        container: the container.
        key: what tells documents (or sequences of documents) apart; `seen` holds the versions of each, in feed order.

    """

    def __init__(self, container: ContainerProxy, key: Callable[[Any], Hashable]) -> None:
        self._container = container
        self._key = key
        self._continuations: list[tuple[dict[str, Any], str]] = []
        self.seen: dict[Any, list[Any]] = defaultdict(list)
        self.deleted: list[Any] = []

    async def open(self) -> None:
        """Begin: the feed of all versions starts now."""
        for feed_range in await feed_ranges(self._container):
            token = dict(feed_range.token)
            _, continuation = await self._changes(feed_range=token)
            self._continuations.append((token, continuation))

    async def read(self) -> None:
        """Take in what has changed since."""
        for index, (token, continuation) in enumerate(self._continuations):
            changes, now = await self._changes(continuation=continuation)
            self._continuations[index] = (token, now)
            for change in changes:
                if change["metadata"]["operationType"] == "delete":
                    self.deleted.append(change)
                elif not is_internal(document := change["current"]):
                    self.seen[self._key(document)].append(document)

    async def _changes(self, **start: Any) -> tuple[list[Any], str]:
        answers: list[Any] = []
        cursor = self._container.query_items_change_feed(
            mode="AllVersionsAndDeletes",
            max_item_count=1000,
            response_hook=lambda headers, _: answers.append(headers),
            **start,
        ).by_page()
        found = [change async for page in cursor async for change in page]
        return found, str(answers[-1]["etag"])
