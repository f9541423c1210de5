"""Reads the latest-version change feed of a container, one cursor per feed range, with positions that can be saved.

What the SDK gives is not enough to save a position: `by_page().continuation_token` is taken from a field that all
requests of the client share, and is None as long as a range is empty. So each request's own response headers are kept
here (the hook gets the very object into which the SDK then writes the token), for full and empty pages alike.
A cursor spans one feed range and starts at the beginning: tokens that were made with a start time
(azure-sdk-for-python #43018), and tokens over several ranges of which one was not visited yet, cannot be resumed. So
when a range was split, its position is taken apart into those of the new ranges (`parts`), never resumed whole.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.cosmos.failures import DRIVER_ERRORS, CosmosUnavailableError, read_error
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document


ANSWER_S = 45.0
"""How long a page may take, in seconds: the client repeats what was refused for 30 s. And if its question (4.17.1)
for the ranges is answered 410, it waits for a lock that it holds itself, for ever; giving up frees it."""


@dataclass(frozen=True, slots=True)
class FeedRange:
    """A part of a container whose changes have one order.

    `key` is stable for as long as the range exists and fit to be the key of a checkpoint (`00-1F`, open ends are
    empty); `token` is what the SDK calls the range.
    """

    key: str
    token: Mapping[str, Any] = field(compare=False)

    @classmethod
    def between(cls, lower: str, upper: str) -> FeedRange:
        """Return the range from one bound up to another, hashes in hexadecimal; "" to "FF" is everything."""
        bounds = {"min": lower, "max": upper, "isMinInclusive": True, "isMaxInclusive": False}
        return cls(f"{lower}-{upper}", {"Range": bounds})

    @property
    def lower(self) -> str:
        """The bound that it begins with."""
        return str(self.token["Range"]["min"])

    @property
    def upper(self) -> str:
        """The bound that it ends before."""
        return str(self.token["Range"]["max"])


@dataclass(frozen=True, slots=True)
class FeedPart:
    """How far one range has been read, None for not at all."""

    range: FeedRange
    continuation: str | None


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Changes in their order (`_lsn`, several of one `_lsn` were one batch), and where to go on after them.

    The last page of a pass is empty: its continuation is past everything that was there. `charge` is in request units,
    `behind` about how many changes were there beyond this page when it was read.
    """

    documents: tuple[Document, ...]
    continuation: str
    charge: float = field(default=0.0, compare=False)
    behind: int = field(default=0, compare=False)


async def feed_ranges(container: ContainerProxy, *, refresh: bool = True) -> list[FeedRange]:
    """Return the feed ranges of a container, in the order of their keys.

    Args:
        container: the container.
        refresh: ask Cosmos DB, rather than what the client remembers from before a split.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    try:
        async with asyncio.timeout(ANSWER_S):
            tokens = [token async for token in container.read_feed_ranges(force_refresh=refresh)]
    except DRIVER_ERRORS as error:
        raise read_error(error, f"reading the feed ranges of {container.id!r}") from error
    except TypeError as error:
        raise ranges_error(container) from error
    return sorted((FeedRange(range_key(token), token) for token in tokens), key=lambda item: item.key)


def ranges_error(container: ContainerProxy) -> CosmosUnavailableError:
    """Name what the client (4.17.1) says as a TypeError: a 500 in answer to its question for the ranges."""
    return CosmosUnavailableError(f"reading the feed ranges of {container.id!r}: 500 or the like")


def parts(continuation: str) -> list[FeedPart]:
    """Return the positions that a continuation is made of: one, or one for each range that its range was split into.

    Raises:
        ConfigurationError: it is no continuation.

    """
    try:
        state = json.loads(base64.b64decode(continuation, validate=True))
        tokens = state["continuation"]["continuation"]
        ranges = [FeedRange.between(token["range"]["min"], token["range"]["max"]) for token in tokens]
    except (ValueError, KeyError, TypeError) as error:
        msg = "the saved position in a change feed is none; delete its row from crossfeed.feed_range"
        raise ConfigurationError(msg) from error
    return [
        FeedPart(of, None if token["token"] is None else _continuation_of(state, of, token))
        for of, token in zip(ranges, tokens, strict=True)
    ]


def _continuation_of(state: dict[str, Any], feed_range: FeedRange, token: dict[str, Any]) -> str:
    inner = {**state["continuation"], **feed_range.token, "continuation": [token]}
    return base64.b64encode(json.dumps({**state, "continuation": inner}).encode()).decode()


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
    answers = Answers()
    start: dict[str, Any] = {"start_time": "Beginning"} if continuation is None else {"continuation": continuation}
    cursor = container.query_items_change_feed(
        feed_range=dict(feed_range.token), max_item_count=page_size, response_hook=answers.keep, **start
    ).by_page()
    try:
        while (documents := await next_page(cursor)) is not None:
            yield FeedPage(documents, answers.continuation, answers.charge, answers.behind(documents))
    except DRIVER_ERRORS as error:
        raise read_error(error, f"reading the change feed of {container.id!r} {feed_range.key}") from error
    except TypeError as error:
        raise ranges_error(container) from error
    except ValueError as error:  # what the SDK makes of a token that it cannot use
        msg = (
            f"the saved position in the change feed of {container.id!r} {feed_range.key} is none of this container"
            f" ({error}): was it created anew? Delete its rows from crossfeed.feed_range; then its feed is read from"
            " the beginning, which changes nothing that is current"
        )
        raise ConfigurationError(msg) from error
    yield FeedPage((), answers.continuation, answers.charge)


async def next_page(cursor: AsyncIterator[AsyncIterator[Document]]) -> tuple[Document, ...] | None:
    """Return the next page of a feed, None after the last one; a TimeoutError is raised where none comes."""
    async with asyncio.timeout(ANSWER_S):
        page = await anext(cursor, None)
        return None if page is None else tuple([document async for document in page])


class Answers:
    """The headers of one cursor's newest response, for whoever reads a feed."""

    def __init__(self) -> None:
        self._headers: Mapping[str, Any] = {}

    def keep(self, headers: Mapping[str, Any], _body: Any) -> None:  # noqa: ANN401 - a JSON body, not looked at
        """Take note of a response; the client calls it."""
        self._headers = headers

    @property
    def continuation(self) -> str:
        """The position past that response."""
        return str(self._headers["etag"])

    @property
    def charge(self) -> float:
        """What it cost, in request units."""
        return float(self._headers.get("x-ms-request-charge", 0))

    def behind(self, documents: Sequence[Document]) -> int:
        """Compare how far the partition is with the last document, 0 where either is not told."""
        version = str(self._headers.get("x-ms-session-token", "")).rpartition(":")[2].split("#")
        newest = version[1] if len(version) > 1 else version[0]
        if not documents or not newest.isdecimal():
            return 0
        return max(0, int(newest) - int(documents[-1].get("_lsn", newest)))
