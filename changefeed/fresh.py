"""Reads by key what a batch is about that somebody else has read from the feed: never older than the batch itself.

A client that read the feed itself has a session that holds what it has seen. The one of a trigger has none, because
the host read the feed: without this, a replica that is behind could answer with what was before the change, or with
nothing at all, and the change would be lost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from core.cosmos.documents import Looked, look
from core.cosmos.failures import DRIVER_ERRORS, read_error
from core.errors import DocumentRefusedError, StoreUnavailableError
from core.identity import is_readable_id
from core.postgres.mirrored_judging import STALE_READ_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.identity import Identity, KeyPart
    from core.key_path import KeyPath


class Reader(Protocol):
    """Reads a document by its key, from any replica."""

    async def look(self, identity: Identity) -> Looked:
        """Return what there is, with the `_lsn` of the replica that answered.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        ...

    async def reach(self, container: str, epoch: int) -> None:
        """Let no read of this container from now on be older than the opening of an epoch.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        ...


class FreshDocuments:
    """What the guarded write asks for documents (core.postgres.mirrored_batch.DocumentReader).

    Args:
        reader: reads them.
        batch: the documents of the batch, by identity; others may be of other feed ranges, and are read as they are.
        clock: seconds since 1970.

    """

    def __init__(
        self, reader: Reader, batch: Mapping[Identity, Document], clock: Callable[[], float] = time.time
    ) -> None:
        self._reader = reader
        self._batch = batch
        self._clock = clock

    async def read(self, identity: Identity) -> Document | None:
        """Return the document with its system properties, None where there is none (any more).

        Raises:
            StoreUnavailableError: Cosmos DB did not answer, or one that is behind did; repeat.

        """
        looked = await self._reader.look(identity)
        shown = self._batch.get(identity)
        if shown is not None:
            _check_fresh(looked, shown, self._clock)
        return looked.document

    async def reach(self, container: str, epoch: int) -> None:
        """See DocumentReader."""
        await self._reader.reach(container, epoch)


class FreshContainer:
    """Reads the documents of a batch again from their container (changefeed.rewritten.Rereader).

    Args:
        container: the container, which exists.
        paths: of its partition key.
        clock: seconds since 1970.

    """

    def __init__(
        self, container: ContainerProxy, paths: Sequence[KeyPath], clock: Callable[[], float] = time.time
    ) -> None:
        self._container = container
        self._paths = paths
        self._clock = clock

    def key_of(self, document: Document) -> list[KeyPart] | None:
        """Return id and partition key; None: it has none that can be read, and becomes a dead letter as it is."""
        id_ = document.get("id")
        if not isinstance(id_, str) or not is_readable_id(id_):
            return None
        try:
            return [id_, *(path.key_part(document) for path in self._paths)]
        except DocumentRefusedError:
            return None

    async def by_key(self, document: Document, key: Sequence[KeyPart]) -> Document | None:
        """See Rereader."""
        id_, *parts = key
        looked = await look(self._container, str(id_), parts, f"a document of {self._container.id!r}")
        _check_fresh(looked, document, self._clock)
        return looked.document

    async def by_rid(self, document: Document) -> Document | None:
        """See Rereader. It counts as shown at the batch's own place: what came later comes out of the feed again."""
        rows = self._container.query_items(
            query="SELECT * FROM c WHERE c._rid = @rid", parameters=[{"name": "@rid", "value": document.get("_rid")}]
        )
        try:
            found: list[dict[str, Any]] = [row async for row in rows]
        except DRIVER_ERRORS as error:
            raise read_error(error, f"reading a document of {self._container.id!r} by _rid") from error
        ts = int(document.get("_ts", 0))
        is_fresh = bool(found) and (found[0]["_etag"] == document.get("_etag") or found[0]["_ts"] > ts)
        if not is_fresh and self._clock() - ts < STALE_READ_S:
            msg = (
                f"a query of {self._container.id!r} shows something else than the change feed, perhaps what was before"
            )
            raise StoreUnavailableError(msg)
        place = {"_lsn": document["_lsn"]} if "_lsn" in document else {}
        return {**found[0], **place} if found else None


def _check_fresh(looked: Looked, shown: Document, clock: Callable[[], float]) -> None:
    """Refuse the answer of a replica that has not come as far as the batch.

    A clock that stepped back, or a region that was lost, must not block the feed for ever: after STALE_READ_S it is
    no replica that lags.
    """
    ts, lsn = int(shown.get("_ts", 0)), shown.get("_lsn")
    if lsn is not None and (looked.lsn is None or looked.lsn < int(lsn)) and clock() - ts < STALE_READ_S:
        msg = "a read by key came from a replica that is behind the change feed"
        raise StoreUnavailableError(msg)
