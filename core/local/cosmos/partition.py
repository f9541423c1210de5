"""Keeps the documents of one physical partition together with its change log."""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPACT_MINIMUM = 1024
HISTORY_LIMIT = 50_000
_lsn_of = attrgetter("lsn")


class Document:
    """One version of a document: its raw JSON with system properties, and where it belongs."""

    __slots__ = ("_body", "epk", "etag", "expires", "id", "key", "live", "lsn", "raw", "rid", "ts", "unique")

    def __init__(  # noqa: PLR0913 - a record
        self,
        *,
        id: str,  # noqa: A002
        key: bytes,
        epk: str,
        raw: bytes,
        etag: str,
        ts: int,
        rid: int,
        expires: float | None,
    ) -> None:
        self.id = id
        self.key = key
        self.epk = epk
        self.raw = raw
        self.etag = etag
        self.ts = ts
        self.rid = rid
        self.expires = expires
        self.lsn = 0
        self.live = True
        self.unique: tuple[tuple[object, ...], ...] = ()
        self._body: dict[str, Any] | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The parsed document; it is shared and must not be changed."""
        body = self._body
        if body is None:
            body = self._body = orjson.loads(self.raw)
        return body


class Change:
    """One write to a logical partition: what was there before, what is there now."""

    __slots__ = ("new", "old", "ttl_expired")

    def __init__(self, old: Document | None, new: Document | None, *, ttl_expired: bool = False) -> None:
        self.old = old
        self.new = new
        self.ttl_expired = ttl_expired


class HistoryEntry:
    """One change as the all-versions-and-deletes feed shows it: raw JSON before and after, `time` of the change."""

    __slots__ = ("document", "expired", "lsn", "new", "old", "previous_lsn", "time")

    def __init__(self, change: Change, document: Document, lsn: int, time: float) -> None:
        self.document = document
        self.expired = change.ttl_expired
        self.lsn = lsn
        self.time = time
        self.new = change.new.raw if change.new is not None else None
        self.old = change.old.raw if change.old is not None else None
        self.previous_lsn = change.old.lsn if change.old is not None else 0


class PhysicalPartition:
    """A range `[minimum, maximum)` of effective partition keys, its documents and the log of their latest versions.

    The log holds each live document once, ordered by LSN; superseded entries are dropped when they outnumber the
    live ones, so that memory follows the number of documents and not the number of writes.
    """

    def __init__(self, id: str, minimum: str, maximum: str, parents: tuple[str, ...] = (), *, lsn: int = 1) -> None:  # noqa: A002
        self.id = id
        self.minimum = minimum
        self.maximum = maximum
        self.parents = parents
        self.lsn = lsn
        self.history_start = 0
        self.generation = 0
        self.logical: dict[bytes, dict[str, Document]] = {}
        self.unique: dict[tuple[bytes, int, tuple[object, ...]], Document] = {}
        self.by_rid: dict[int, Document] = {}
        self._rids: list[int] = []
        self.log: list[Document] = []
        self.history: list[HistoryEntry] = []
        self.size = 0

    def get(self, key: bytes, id: str) -> Document | None:  # noqa: A002
        """Return the stored version of a document, expired or not."""
        documents = self.logical.get(key)
        return None if documents is None else documents.get(id)

    def put(self, change: Change) -> None:
        """Apply a change to the documents; the log learns of it by `commit`, or never after `revert`."""
        old, new = change.old, change.new
        if old is not None:
            self._forget(old)
        if new is not None:
            self._remember(new)

    def revert(self, change: Change) -> None:
        """Undo a `put` that was not committed."""
        self.put(Change(change.new, change.old))

    def _forget(self, document: Document) -> None:
        documents = self.logical[document.key]
        del documents[document.id]
        if not documents:
            del self.logical[document.key]
        for index, values in enumerate(document.unique):
            self.unique.pop((document.key, index, values), None)
        del self.by_rid[document.rid]
        self.size -= len(document.raw)

    def _remember(self, document: Document) -> None:
        self.logical.setdefault(document.key, {})[document.id] = document
        for index, values in enumerate(document.unique):
            self.unique[document.key, index, values] = document
        self.by_rid[document.rid] = document
        # A number below the last one is a replaced document's, which is in the list already.
        if not self._rids or document.rid > self._rids[-1]:
            self._rids.append(document.rid)
        self.size += len(document.raw)

    def commit(self, changes: list[Change], now: float, *, keep_history: bool) -> int:
        """Give applied changes one LSN, put them in the log and return the LSN."""
        self.lsn += 1
        for change in changes:
            if change.old is not None:
                change.old.live = False
        for change in changes:
            document = change.new
            if document is not None:
                document.lsn = self.lsn
                if document.live:
                    self.log.append(document)
        self._record(changes, now, keep=keep_history)
        if len(self.log) > 2 * len(self.by_rid) + COMPACT_MINIMUM:
            self.log = [document for document in self.log if document.live]
        if len(self._rids) > 2 * len(self.by_rid) + COMPACT_MINIMUM:
            self._rids = [rid for rid in self._rids if rid in self.by_rid]
        return self.lsn

    def _record(self, changes: list[Change], now: float, *, keep: bool) -> None:
        if not keep:
            self.history_start = self.lsn
            return
        for change in changes:
            shown = change.new or change.old
            if shown is not None:
                self.history.append(HistoryEntry(change, shown, self.lsn, now))
        if len(self.history) > 2 * HISTORY_LIMIT:
            self.history_start = self.history[-HISTORY_LIMIT - 1].lsn
            self.history = [entry for entry in self.history if entry.lsn > self.history_start]

    def scan(self, after: int = 0) -> Iterator[Document]:
        """Iterate over the documents with a number above `after`, in the order of their creation."""
        for index in range(bisect_right(self._rids, after), len(self._rids)):
            document = self.by_rid.get(self._rids[index])
            if document is not None:
                yield document

    def changed_after(self, lsn: int) -> Iterator[Document]:
        """Iterate over the live documents written after `lsn`, oldest first."""
        start = bisect_right(self.log, lsn, key=_lsn_of)
        for index in range(start, len(self.log)):
            document = self.log[index]
            if document.live:
                yield document

    def history_after(self, lsn: int) -> Iterator[HistoryEntry]:
        """Iterate over the kept changes after `lsn`, oldest first."""
        for index in range(bisect_right(self.history, lsn, key=_lsn_of), len(self.history)):
            yield self.history[index]

    def covers(self, epk: str) -> bool:
        """Say whether an effective partition key belongs here."""
        return self.minimum <= epk < self.maximum

    def child(self, id: str, minimum: str, maximum: str) -> PhysicalPartition:  # noqa: A002
        """Return a new partition with the part of this one's documents and log that lies in `[minimum, maximum)`."""
        child = PhysicalPartition(id, minimum, maximum, (*self.parents, self.id), lsn=self.lsn)
        child.history_start = self.history_start
        for document in self.scan():
            if child.covers(document.epk):
                child._remember(document)
        child.log = [document for document in self.log if document.live and child.covers(document.epk)]
        child.history = [entry for entry in self.history if child.covers(entry.document.epk)]
        return child
