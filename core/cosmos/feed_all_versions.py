"""Reads the change feed of all versions and deletes, where an account has it: the only feed that shows a hard delete.

It begins now, never at a beginning: what was deleted before is the reconcile pass' to find. Its items are
`{current, previous, metadata}`, here and in the payload of a trigger alike. The service may leave out what was before,
but never which document was deleted (`metadata.id`, `metadata.partitionKey`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.cosmos.failures import DRIVER_ERRORS, Unacceptable, failure_of, read_error
from core.cosmos.feed import Answers, FeedPage, feed_ranges, next_page, ranges_error
from core.envelope import is_deleted
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.feed import FeedRange

MODE: Final = "AllVersionsAndDeletes"


@dataclass(frozen=True, slots=True)
class Deleted:
    """A document that the feed has shown to be deleted.

    Args:
        key: a document that consists of its id and its partition key.
        previous: what it was, as far as the service knows.
        ts: when, in whole seconds since 1970.
        lsn: the place of the delete in its physical partition.

    """

    key: Document
    previous: Document
    ts: int
    lsn: int


async def offers_all_versions(container: ContainerProxy) -> bool:
    """Ask whether the account has this feed (it needs continuous backup), by asking for what is new just now.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    [first, *_] = await feed_ranges(container)
    try:
        async for _ in all_version_pages(container, first, None, 1):
            return True
    except ConfigurationError:
        return False
    return True


async def all_version_pages(
    container: ContainerProxy, feed_range: FeedRange, continuation: str | None, page_size: int
) -> AsyncGenerator[FeedPage, None]:
    """Yield every change of one feed range until there are none left; then one empty page, as `core.cosmos.feed.pages`.

    The items have `_ts` and `_lsn` beside what the service gives.

    Args:
        container: the container.
        feed_range: one of its ranges.
        continuation: of the page processed last, None to begin now.
        page_size: about how many changes a page holds; a batch is never split between pages.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer; go on from the last page's continuation.
        ConfigurationError: the account has no such feed, or does not keep it as far back as the continuation.

    """
    answers = Answers()
    start: dict[str, Any] = {} if continuation is None else {"continuation": continuation}
    cursor = container.query_items_change_feed(
        feed_range=dict(feed_range.token), max_item_count=page_size, response_hook=answers.keep, mode=MODE, **start
    ).by_page()
    what = f"reading all versions of {container.id!r} {feed_range.key}"
    try:
        while (found := await next_page(cursor)) is not None:
            items = tuple(map(_placed, found))
            yield FeedPage(items, answers.continuation, answers.charge, answers.behind(items))
    except DRIVER_ERRORS as error:
        if isinstance(failure_of(error), Unacceptable):
            msg = f"{what}: the account does not have this feed, or does not keep it for so long"
            raise ConfigurationError(msg) from error
        raise read_error(error, what) from error
    except TypeError as error:
        raise ranges_error(container) from error
    yield FeedPage((), answers.continuation, answers.charge)


def is_all_versions(item: Mapping[str, Any]) -> bool:
    """Say whether an item is one of this feed, not a document: a trigger is not told which feed it hears."""
    return "id" not in item and isinstance(item.get("metadata"), dict) and "operationType" in item["metadata"]


def current_documents(items: Iterable[Mapping[str, Any]]) -> list[Document]:
    """Return the documents that were created or replaced, in feed order, as the feed of latest versions shows them."""
    return [
        {**item["current"], "_lsn": int(item["metadata"]["lsn"])}
        for item in items
        if item.get("current") and not _is_delete(item)
    ]


def deleted_documents(items: Iterable[Mapping[str, Any]]) -> list[Deleted]:
    """Return what was deleted, in feed order; the end of a tombstone's life is no delete."""
    return [
        _deleted(item["metadata"], item.get("previous") or {})
        for item in items
        if _is_delete(item) and not is_deleted(item.get("previous") or {})
    ]


def _is_delete(item: Mapping[str, Any]) -> bool:
    # Hosts do not agree on how to spell it; what is gone has no current state. A read by key has the last word anyway.
    return str(item["metadata"]["operationType"]).lower() == "delete" or not item.get("current")


def _deleted(metadata: Mapping[str, Any], previous: Document) -> Deleted:
    key: Document = {}
    for path, value in (metadata.get("partitionKey") or {}).items():
        *above, last = str(path).strip("/").split("/")
        inner = key
        for segment in above:
            inner = inner.setdefault(segment, {})
        inner[last] = value
    key["id"] = metadata.get("id", previous.get("id"))
    if not metadata.get("partitionKey"):
        key = {**previous, **key}
    return Deleted(key, previous, int(metadata["crts"]), int(metadata["lsn"]))


def _placed(item: Mapping[str, Any]) -> Document:
    return {**item, "_ts": int(item["metadata"]["crts"]), "_lsn": int(item["metadata"]["lsn"])}
