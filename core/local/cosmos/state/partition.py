"""Keeps the documents of one physical partition together with its change log."""

from __future__ import annotations

from bisect import bisect_right
from copy import copy
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from core.local.cosmos.state.past import Past

COMPACT_MINIMUM = 1024
COMPACT_BYTES = 16 * 1024 * 1024
HISTORY_LIMIT = 50_000
HISTORY_BYTES = 64 * 1024 * 1024
_lsn_of = attrgetter("lsn")


class Document:
    """One version of a document: its raw JSON with system properties, and where it belongs."""

    __slots__ = ("_body", "epk", "etag", "expires", "id", "key", "live", "lsn", "raw", "rid", "ts", "unique")

    def __init__(  # noqa: PLR0913 - a record
        self,
        *,
        id_: str,
        key: bytes,
        epk: str,
        raw: bytes,
        etag: str,
        ts: int,
        rid: int,
        expires: float | None,
    ) -> None:
        self.id = id_
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

    @property
    def size(self) -> int:
        """The bytes of the JSON that it shows."""
        return len(self.new or b"") + len(self.old or b"")


class PhysicalPartition:
    """A range `[minimum, maximum)` of effective partition keys, its documents and the log of their latest versions.

    The log holds each live document once, ordered by LSN; superseded entries are dropped when they outnumber or
    outweigh the live ones, so that memory follows the documents and not the number of writes.
    """

    def __init__(self, id_: str, minimum: str, maximum: str, parents: tuple[str, ...] = (), *, lsn: int = 1) -> None:
        self.id = id_
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
        self._history_size = 0
        self.size = 0
        self._superseded = 0  # bytes in the log
        self.past: Past | None = None  # what older states are made from, while replicas are to be behind

    def get(self, key: bytes, id_: str) -> Document | None:
        """Return the stored version of a document, expired or not."""
        documents = self.logical.get(key)
        return None if documents is None else documents.get(id_)

    def put(self, change: Change) -> None:
        """Apply a change to the documents; the log learns of it by `commit`, or never after `revert`."""
        old, new = change.old, change.new
        if self.past is not None:
            self.past.documents_move()
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
        if self._rids and self._rids[-1] == document.rid:  # what is undone leaves nothing behind
            self._rids.pop()
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
                self._superseded += len(change.old.raw)
        for change in changes:
            document = change.new
            if document is not None:
                document.lsn = self.lsn
                if document.live:
                    self.log.append(document)
        self._record(changes, now, keep=keep_history)
        if self.past is not None:
            self.past.record(self.lsn, now, changes)
        many = len(self.log) > 2 * len(self.by_rid) + COMPACT_MINIMUM
        if many or self._superseded > self.size + COMPACT_BYTES:
            self.log = [document for document in self.log if document.live]
            self._superseded = 0
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
                self.remember_change(HistoryEntry(change, shown, self.lsn, now))

    def remember_change(self, entry: HistoryEntry) -> None:
        """Keep the newest change for the feed of all versions and deletes."""
        self.history.append(entry)
        self._history_size += entry.size

    def trim_history(self) -> bool:
        """Drop older changes if there are twice as many, or twice the bytes, as are kept, and say whether it did."""
        if len(self.history) <= 2 * HISTORY_LIMIT and self._history_size <= 2 * HISTORY_BYTES:
            return False
        first, kept = len(self.history), 0
        while first > 0 and len(self.history) - first < HISTORY_LIMIT and kept < HISTORY_BYTES:
            first -= 1
            kept += self.history[first].size
        self.history_start = self.history[first - 1].lsn
        self.history = [entry for entry in self.history if entry.lsn > self.history_start]
        self._history_size = sum(entry.size for entry in self.history)
        return True

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

    def child(self, id_: str, minimum: str, maximum: str) -> PhysicalPartition:
        """Return a new partition with the part of this one's documents and log that lies in `[minimum, maximum)`."""
        child = PhysicalPartition(id_, minimum, maximum, (*self.parents, self.id), lsn=self.lsn)
        child.history_start = self.history_start
        child.load([document for document in self.log if document.live and child.covers(document.epk)])
        for entry in self.history:
            if child.covers(entry.document.epk):
                child.remember_change(entry)
        if self.past is not None:
            child.past = self.past.part(child.covers)
        return child

    def earlier(self, changes: Iterable[Change], lsn: int, now: float) -> PhysicalPartition:
        """Return what this partition was at an earlier `lsn`, without what has expired by `now`, to be read only.

        `changes` are all those since, newest first. This partition and its documents stay as they are.
        """
        past = PhysicalPartition(self.id, self.minimum, self.maximum, self.parents, lsn=lsn)
        past.logical, past.by_rid = dict(self.logical), dict(self.by_rid)
        copied: set[bytes] = set()
        returned: dict[int, Document] = {}
        for change in changes:
            for document in (change.old, change.new):
                if document is not None and document.key not in copied:
                    copied.add(document.key)
                    if document.key in past.logical:
                        past.logical[document.key] = dict(past.logical[document.key])
            past.revert(change)
            if change.old is not None:
                returned[change.old.rid] = change.old
        alive: list[Document] = []
        for document in returned.values():
            if past.by_rid.get(document.rid) is not document:
                continue
            restored = None
            if document.expires is None or document.expires > now:
                restored = copy(document)
                restored.live = True
                alive.append(restored)
            past.put(Change(document, restored))
        past._rids = sorted(past.by_rid)
        kept = [document for document in self.log if document.live and document.lsn <= lsn]
        past.log = sorted([*kept, *alive], key=_lsn_of)
        past.history = self.history[: bisect_right(self.history, lsn, key=_lsn_of)]
        past.history_start = min(self.history_start, lsn)
        return past

    def load(self, documents: list[Document]) -> None:
        """Take over committed documents, in the order of their LSNs, into a partition that has none."""
        for document in documents:
            self._remember(document)
        self._rids = sorted(self.by_rid)
        self.log = documents
