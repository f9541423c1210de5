"""Reads all documents of a container once, by its change feed from the beginning to where it was when that began.

The feed shows every document once, also while others write, follows splits, and goes on where a failure interrupted it.
A document that is written meanwhile is shown again; what was shown last counts. Whoever writes without a rest keeps
adding to its end, so each range is read as far as the mark that was written into it before.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

from core.content import ENVELOPE
from core.cosmos.feed import FeedPart, feed_ranges, pages, parts
from core.cosmos.patience import patiently_read
from core.envelope import Origin, Ours, author_of, is_deleted, is_internal
from core.errors import DocumentRefusedError
from core.identity import Identity, is_readable_id
from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.feed import FeedPage
    from core.mapping import EntityMapping
    from core.mappings import Mappings

_LARGEST: Final = 1 << 63


class Shown(NamedTuple):
    """A document, as far as a comparison of states looks at it.

    Args:
        identity: whose.
        stamp: the one that it claims, verified or not; None where it claims none.
        is_published: whether it was written by the relay and not touched since: the hash verifies.
        etag: its `_etag`.
        is_live: False for a tombstone.

    """

    identity: Identity
    stamp: Stamp | None
    is_published: bool
    etag: str
    is_live: bool


def shown_of(identity: Identity, document: Document) -> Shown:
    """Return what a comparison looks at of a document with its system properties."""
    author = author_of(document)
    is_published = isinstance(author, Ours) and author.origin is Origin.POSTGRES
    stamp = author.stamp if isinstance(author, Ours) else _claimed(document)
    return Shown(identity, stamp, is_published, str(document.get("_etag", "")), not is_deleted(document))


def _claimed(document: Document) -> Stamp | None:
    envelope = document.get(ENVELOPE)
    if not isinstance(envelope, dict):
        return None
    epoch, version = envelope.get("epoch"), envelope.get("version")
    return Stamp(epoch, version) if _is_count(epoch) and _is_count(version) else None


def _is_count(value: Any) -> TypeGuard[int]:  # noqa: ANN401 - any JSON value
    return type(value) is int and 0 <= value < _LARGEST


def identity_of(mapping: EntityMapping[Any], document: Document) -> Identity | None:
    """Return the identity of a document, None where it has none that a row could have."""
    try:
        identity = mapping.identity(document)
    except DocumentRefusedError:
        return None
    return identity if identity.can_be_stored and is_readable_id(identity.id) else None


async def read_all(
    store: CosmosStore,
    name: str,
    page_size: int,
    rest: Callable[[float], Awaitable[None]],
    marks: Collection[str] = (),
) -> AsyncGenerator[tuple[Document, ...]]:
    """Yield the documents of a container page by page, with their system properties, tombstones and ours among them.

    Args:
        store: the opened Cosmos DB database.
        name: the container's name.
        page_size: about how many documents a page holds.
        rest: awaited after each page with what it cost, in request units.
        marks: ids of documents, one in each feed range, that were written just before (`CosmosDocuments.catch_up`);
            what comes after them is not read. A range that was split since has its mark in one of its parts: the others
            are read to their ends.

    Raises:
        StoreUnavailableError: Cosmos DB failed again and again.

    """
    container = await store.existing_container_named(name)
    left = [FeedPart(one, None) for one in await patiently_read(lambda: feed_ranges(container))]
    while left:
        part = left.pop()
        page = await patiently_read(partial(_page, container, part, page_size))
        following = parts(page.continuation)
        is_read = any(is_internal(document) and document["id"] in marks for document in page.documents)
        is_split = len(following) > 1  # each of the new ranges has an end of its own
        if is_split or (page.documents and not is_read):
            left += following
        yield page.documents
        await rest(page.charge)


async def _page(container: ContainerProxy, part: FeedPart, page_size: int) -> FeedPage:
    async with aclosing(pages(container, part.range, part.continuation, page_size)) as source:
        return await anext(source)


def sorted_out(
    mappings: Mappings, container: str, documents: Sequence[Document]
) -> tuple[dict[EntityMapping[Any], list[tuple[Identity, Document]]], list[Identity]]:
    """Sort documents by mapping; return them, and under which names those stand that no row could have.

    Crossfeed's own documents and those of types that nobody mapped are left out.
    """
    found: dict[EntityMapping[Any], list[tuple[Identity, Document]]] = {}
    unreadable: list[Identity] = []
    for document in documents:
        mapping = None if is_internal(document) else mappings.mapping_of(container, document)
        if mapping is None:
            continue
        identity = identity_of(mapping, document)
        if identity is not None:
            found.setdefault(mapping, []).append((identity, document))
        elif not is_deleted(document):
            unreadable.append(Identity(mapping.name, "", str(document.get("id", ""))))
    return found, unreadable
