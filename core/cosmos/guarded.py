"""The guarded write to Cosmos DB: the only way in which relay, backfill and repair write, and never backwards.

Every write is conditional: a create, or a replace of exactly the document that was seen (If-Match). What was seen is
either remembered (a bounded map from identity to the ETag and stamp last written or read, so that steady state is one
round trip), or it is read and judged: a stamp counts only if the document's hash verifies. So whatever the order,
duplication or interleaving of writers, a document's stamp only grows.

A stamp protects nothing from a writer that slept through a flip where there is none: it would replace what a foreign
writer of the new primary wrote, and create what was deleted there. So the quarantine confirms the state's epoch before

- a foreign document is replaced: asked afresh, after the document was read. So it was written before the flip, and
  If-Match refuses anything written since;
- an older document of ours is: the barrier left this state or a newer one, and what Crossfeed wrote later has a greater
  stamp, so a foreign writer put it back. (A remembered ETag is not asked about: at the flip it was there no more.)
- a document is created. Here and for an older one the answer may be a moment old, or steady state would cost a round
  trip to Postgres each, and nothing is like If-Match for what is absent: a process stopped between answer and create
  for as long as it takes to flip and delete still resurrects. Leases and their deadlines will bound that time.

What to do about a document seen for the first time: version 1 was just inserted and is created outright; any other
has most likely been there before, and reading it first costs two round trips where a failing create costs three.
An ETag taken by the row is no short cut: the row may still be the very state that was taken, and this an echo.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import structlog

from core.cosmos.documents import CosmosDocuments
from core.cosmos.failures import (
    DRIVER_ERRORS,
    Changed,
    CosmosUnavailableError,
    Exists,
    Missing,
    Unacceptable,
    Unanswered,
    Unavailable,
    failure_of,
)
from core.cosmos.publish import Outcome, Publish, Quarantine, Refused, Superseded, Unchanged, Written
from core.envelope import Foreign, Internal, Origin, Ours, author_of, is_same_state, stamped
from core.errors import ConflictError, DocumentRefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.stamp import Stamp

__all__ = ["GuardedWriter", "Outcome", "Publish", "Quarantine", "Refused", "Superseded", "Unchanged", "Written"]

_log = structlog.get_logger()

MAX_ROUNDS = 16
"""How often one document is read again because somebody else wrote it in between, before it counts as contended."""

REMEMBERED = 100_000
"""How many ETags a writer remembers."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The document that is there: replace exactly this one. `stamp` is None where it cannot be trusted."""

    etag: str
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class _Absent:
    """There is no document: create it. `looked` says whether a read found that, or it is only likely."""

    looked: bool


class GuardedWriter:
    """Writes states to Cosmos DB, never an older one over a newer one. Safe to share between tasks.

    Args:
        store: the opened database.
        mappings: of everything that will be written.
        quarantine: keeps what Postgres never took, and knows whether Postgres still is primary.
        tombstone_ttl_s: how long a tombstone lives, in seconds.
        concurrency: how many documents are written at the same time.
        remember: how many ETags are remembered.

    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is wired from
        self,
        store: CosmosStore,
        mappings: Mappings,
        quarantine: Quarantine,
        tombstone_ttl_s: int,
        concurrency: int,
        remember: int = REMEMBERED,
    ) -> None:
        self._mappings = mappings
        self._documents = CosmosDocuments(store, mappings)
        self._quarantine = quarantine
        self._ttl_s = tombstone_ttl_s
        self._slots = asyncio.Semaphore(concurrency)
        self._seen: OrderedDict[Identity, _Seen] = OrderedDict()
        self._remember = remember

    async def write(self, items: Sequence[Publish]) -> list[Outcome]:
        """Write states, concurrently by identity; the outcomes are in the order of the items.

        May be repeated with the same items at any time, also after a crash. Of several states of one identity the
        newest is written and the others are superseded.

        Raises:
            StoreUnavailableError: infrastructure failed for some of them (a CosmosUnavailableError, with
                `retry_after_s` where Cosmos DB asked to wait); what was in flight has been finished, the rest was not
                sent.
            PrimaryMovedError: a state is of an epoch that is over; load it again.
            TransientError: the quarantine did not answer.

        """
        groups: dict[Identity, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(item.identity, []).append(index)
        outcomes: dict[int, Outcome] = {}
        stop = asyncio.Event()

        async def one(indexes: list[int]) -> None:
            async with self._slots:
                if stop.is_set():
                    return
                try:
                    for index in sorted(indexes, key=lambda index: items[index].stamp, reverse=True):
                        outcomes[index] = await self._publish(items[index])
                except (TransientError, ConflictError):
                    stop.set()
                    raise

        results = await asyncio.gather(*map(one, groups.values()), return_exceptions=True)
        if failures := [result for result in results if result is not None]:
            raise _worst(failures)
        return [outcomes[index] for index in range(len(items))]

    async def _publish(self, item: Publish) -> Outcome:
        try:
            document = self._document(item)
        except DocumentRefusedError as error:
            return _refused(item, None, str(error))
        view: _Seen | _Absent | Outcome | None = self._expected(item)
        key_conflicts = 0
        for _ in range(MAX_ROUNDS):
            match view:
                case None:
                    view = await self._look(item, document)
                case _Seen() | _Absent():
                    key_conflicts += isinstance(view, _Absent) and view.looked
                    view = await self._write(item, document, view)
                    if view is None and key_conflicts > 1:
                        return _refused(item, 409, "another document of its partition holds one of its unique keys")
                case Written() | Unchanged() | Superseded() | Refused():
                    return view
                case other:
                    assert_never(other)
        msg = f"{item.identity.entity} {item.identity.id!r} was written by others too often in a row"
        raise CosmosUnavailableError(msg)

    def _document(self, item: Publish) -> Document:
        mapping = self._mappings.named(item.identity.entity)
        if item.content is None:
            content = mapping.tombstone_content(item.identity, self._ttl_s)
            mapping.check(content)
            return stamped(content, item.stamp, Origin.POSTGRES, deleted=True)
        mapping.check(item.content)
        if mapping.identity(item.content) != item.identity:
            msg = f"the content belongs to {mapping.identity(item.content)}"
            raise DocumentRefusedError(msg)
        return stamped(item.content, item.stamp, Origin.POSTGRES)

    def _expected(self, item: Publish) -> _Seen | _Absent | Superseded | None:
        """Say what is there without asking, as far as that is known; None: look."""
        seen = self._seen.get(item.identity)
        if seen is None or seen.stamp is None:
            return _Absent(looked=False) if item.stamp.version == 1 else None
        if item.stamp < seen.stamp:
            return Superseded(seen.stamp)
        # An equal one may have been overwritten by a foreign writer since: only reading it tells.
        return seen if item.stamp > seen.stamp else None

    async def _look(self, item: Publish, document: Document) -> _Seen | _Absent | Unchanged | Superseded:
        """Read what is there and judge it by what can be verified."""
        found = await self._documents.read(item.identity)
        if found is None:
            self._forget(item.identity)
            return _Absent(looked=True)
        etag = str(found["_etag"])
        match author := author_of(found):
            case Ours(stamp):
                self._keep(item.identity, _Seen(etag, stamp))
                if stamp > item.stamp:
                    return _superseded(item, stamp)
                if stamp == item.stamp:
                    if not is_same_state(found, document):
                        _log.error("cosmos.one_stamp_two_contents", **_names(item))
                    return Unchanged(etag)
                if author.origin is Origin.COSMOS:
                    # Sent before the flip, landed after, never mirrored: only its letter will tell of it.
                    return await self._keep_untaken(item, found) or _Seen(etag, stamp)
                await self._quarantine.confirm(item)
                return _Seen(etag, stamp)
            case Foreign() | Internal():
                self._forget(item.identity)
                return await self._keep_untaken(item, found) or _Seen(etag, None)
            case other:
                assert_never(other)

    async def _keep_untaken(self, item: Publish, found: Document) -> Superseded | None:
        """Hand what Postgres never took to the quarantine, before it is replaced by the newest state there is."""
        if found["_etag"] == item.taken_etag:
            await self._quarantine.confirm(item)
            return None
        newer = await self._quarantine.untaken(item, found)
        if newer is not None:
            return _superseded(item, newer)
        _log.warning("cosmos.untaken_quarantined", **_names(item))
        return None

    async def _write(
        self, item: Publish, document: Document, view: _Seen | _Absent
    ) -> Written | Refused | _Absent | None:
        """Try the one conditional write that fits the view; None: the view was wrong, look again."""
        if isinstance(view, _Absent):
            await self._quarantine.confirm(item)
        try:
            if isinstance(view, _Absent):
                etag = await self._documents.create(item.identity, document)
            else:
                etag = await self._documents.replace(item.identity, document, view.etag)
        except DRIVER_ERRORS as error:
            self._forget(item.identity)
            match failure_of(error):
                case Exists() if isinstance(view, _Seen):
                    return _refused(item, 409, "another document of its partition holds one of its unique keys")
                case Exists() | Changed():
                    return None
                case Missing():
                    return _Absent(looked=False)
                case Unacceptable(status, reason):
                    return _refused(item, status, reason)
                case Unavailable(reason, retry_after_s):
                    raise CosmosUnavailableError(f"writing {item.identity.entity}: {reason}", retry_after_s) from error
                case Unanswered(reason):  # repeating it is harmless here: its own stamp will be found
                    raise CosmosUnavailableError(f"writing {item.identity.entity}: {reason}") from error
                case other:
                    assert_never(other)
        self._keep(item.identity, _Seen(etag, item.stamp))
        return Written(etag)

    def _keep(self, identity: Identity, seen: _Seen) -> None:
        self._seen[identity] = seen
        self._seen.move_to_end(identity)
        if len(self._seen) > self._remember:
            self._seen.popitem(last=False)

    def _forget(self, identity: Identity) -> None:
        self._seen.pop(identity, None)


def _superseded(item: Publish, found: Stamp) -> Superseded:
    _log.debug("cosmos.write_superseded", **_names(item), found=str(found))
    return Superseded(found)


def _refused(item: Publish, status: int | None, reason: str) -> Refused:
    _log.warning("cosmos.write_refused", **_names(item), status=status, reason=reason)
    return Refused(status, reason)


def _names(item: Publish) -> dict[str, str]:
    return {"entity": item.identity.entity, "document_id": item.identity.id, "stamp": str(item.stamp)}


def _worst(failures: list[BaseException]) -> BaseException:
    """Choose what to raise: a fault of the program before a transient failure, then the longest wait asked for."""
    for error in failures:
        if not isinstance(error, TransientError):
            return error
    return max(failures, key=lambda error: getattr(error, "retry_after_s", None) or 0.0)
