"""Reads the latest-version change feed of a container, one cursor per feed range, with positions that can be saved.

What the SDK gives is not enough to save a position: `by_page().continuation_token` is taken from a field that all
requests of the client share, and is None as long as a range is empty. So each request's own response headers are kept
here (the hook gets the very object into which the SDK then writes the token), for full and empty pages alike.
A cursor spans one feed range and starts at the beginning: tokens over several ranges, and tokens that were made with
a start time (azure-sdk-for-python #43018), cannot be resumed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.cosmos.failures import DRIVER_ERRORS, read_error
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document


@dataclass(frozen=True, slots=True)
class FeedRange:
    """A part of a container whose changes have one order.

    `key` is stable for as long as the range exists and fit to be the key of a checkpoint (`00-1F`, open ends are
    empty); `token` is what the SDK calls the range.
    """

    key: str
    token: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Changes in their order (`_lsn`, several of one `_lsn` were one batch), and where to go on after them.

    The last page of a pass is empty: its continuation is past everything that was there.
    """

    documents: tuple[Document, ...]
    continuation: str


async def feed_ranges(container: ContainerProxy, *, refresh: bool = True) -> list[FeedRange]:
    """Return the feed ranges of a container, in the order of their keys.

    Args:
        container: the container.
        refresh: ask Cosmos DB, rather than what the client remembers from before a split.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    try:
        tokens = [token async for token in container.read_feed_ranges(force_refresh=refresh)]
    except DRIVER_ERRORS as error:
        raise read_error(error, f"reading the feed ranges of {container.id!r}") from error
    return sorted((FeedRange(range_key(token), token) for token in tokens), key=lambda item: item.key)


def range_key(token: Mapping[str, Any]) -> str:
    """Return the stable name of a feed range as the SDK gives it."""
    bounds = token["Range"]
    return f"{bounds['min']}-{bounds['max']}"


async def pages(
    container: ContainerProxy, feed_range: FeedRange, continuation: str | None, page_size: int
) -> AsyncGenerator[FeedPage, None]:
    """Yield the changes of one feed range until there are none left; then one empty page.

    The range may have been split since it was listed: its changes keep coming, each exactly as before.

    Args:
        container: the container.
        feed_range: one of its ranges.
        continuation: of the page processed last, None to read from the beginning.
        page_size: about how many documents a page holds; a batch is never split between pages.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer; go on from the last page's continuation.
        ConfigurationError: the continuation is of another container, or no continuation at all.

    """
    answers = _Answers()
    start: dict[str, Any] = {"start_time": "Beginning"} if continuation is None else {"continuation": continuation}
    cursor = container.query_items_change_feed(
        feed_range=dict(feed_range.token), max_item_count=page_size, response_hook=answers.keep, **start
    ).by_page()
    try:
        async for page in cursor:
            documents = tuple([document async for document in page])
            yield FeedPage(documents, answers.continuation)
    except DRIVER_ERRORS as error:
        raise read_error(error, f"reading the change feed of {container.id!r} {feed_range.key}") from error
    except ValueError as error:  # what the SDK makes of a token that it cannot use
        msg = (
            f"the saved position in the change feed of {container.id!r} {feed_range.key} is none of this container"
            f" ({error}): was it created anew? Delete its rows from crossfeed.checkpoint; then its feed is read from"
            " the beginning, which changes nothing that is current"
        )
        raise ConfigurationError(msg) from error
    yield FeedPage((), answers.continuation)


class _Answers:
    """The headers of one cursor's newest response."""

    def __init__(self) -> None:
        self._headers: Mapping[str, Any] = {}

    def keep(self, headers: Mapping[str, Any], _body: Any) -> None:  # noqa: ANN401 - a JSON body, not looked at
        self._headers = headers

    @property
    def continuation(self) -> str:
        return str(self._headers["etag"])
