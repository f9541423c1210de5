"""Looks at the document that is there, and judges by what can be verified whether a state may take its place.

In a container of several types the document may be of another one: then it is another entity's, with stamps of its own.
While it lives it is never replaced. A state waits (refused, so parked) until the other entity's tombstone is there, and
replaces that; a delete has nothing to delete. So an entity that becomes one of another type under the same key arrives
in either order. A document that names no type at all is taken for this entity's: a foreign writer left that of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import structlog

from core.content import content_of
from core.cosmos.publish import Publish, Quarantine, Refused, Superseded, Unchanged
from core.cosmos.views import Absent, Seen, Views
from core.envelope import Foreign, Internal, Origin, Ours, author_of, is_deleted, is_internal, is_same_state
from core.errors import HistoryLostError

if TYPE_CHECKING:
    from core.content import Document
    from core.mappings import Mappings
    from core.stamp import Stamp

_log = structlog.get_logger()


class Examiner:
    """Decides what may be done about what a read has found.

    Args:
        views: where it remembers what it saw.
        quarantine: keeps what Postgres never took, and knows whether Postgres still is primary.
        mappings: tell the types of one container apart.

    """

    def __init__(self, views: Views, quarantine: Quarantine, mappings: Mappings) -> None:
        self._mappings = mappings
        self._views = views
        self._quarantine = quarantine

    async def judge(self, item: Publish, found: Document | None) -> Seen | Absent | Unchanged | Superseded | Refused:
        """Return what to replace or create, or that there is nothing to do, or that it cannot be done.

        Raises:
            HistoryLostError: another state with the very same stamp is there.
            PrimaryMovedError: the state is of an epoch that is over.
            TransientError: the quarantine did not answer.

        """
        if found is None:
            self._views.forget(item.identity)
            return Absent(looked=True)
        if self._is_of_another_type(item, found):
            return await self._beside(item, found)
        return await self._judge_own(item, found)

    async def _judge_own(self, item: Publish, found: Document) -> Seen | Unchanged | Superseded:
        etag = str(found["_etag"])
        match author := author_of(found):
            case Ours(stamp):
                self._views.keep(item.identity, Seen(etag, stamp))
                if stamp > item.stamp:
                    return superseded(item, stamp)
                if stamp == item.stamp:
                    _compare(item, found, author)
                    return Unchanged(etag)
                if author.origin is Origin.COSMOS:
                    # Sent before the flip, landed after, never mirrored: only its letter will tell of it.
                    return await self._keep_untaken(item, found) or Seen(etag, stamp)
                await self._quarantine.confirm(item)
                return Seen(etag, stamp)
            case Foreign() | Internal():
                self._views.forget(item.identity)
                return await self._keep_untaken(item, found) or Seen(etag, None)
            case other:
                assert_never(other)

    def _is_of_another_type(self, item: Publish, found: Document) -> bool:
        mapping = self._mappings.named(item.identity.entity)
        kind = mapping.discriminator
        if kind is None or is_internal(found) or not kind.names_a_type(found):
            return False
        return self._mappings.mapping_of(mapping.container, found) is not mapping

    async def _beside(self, item: Publish, found: Document) -> Seen | Unchanged | Superseded | Refused:
        self._views.forget(item.identity)
        etag = str(found["_etag"])
        if item.deleted:
            return Unchanged(etag)
        if not is_deleted(found):
            reason = "a live document of another type has the same partition key and id"
            _log.warning("cosmos.key_is_taken", **names(item))
            return Refused(None, reason)
        author = author_of(found)
        if isinstance(author, Ours) and author.origin is Origin.POSTGRES:
            await self._quarantine.confirm(item)
            return Seen(etag, None)
        return await self._keep_untaken(item, found) or Seen(etag, None)

    async def _keep_untaken(self, item: Publish, found: Document) -> Superseded | None:
        """Hand what Postgres never took to the quarantine, before it is replaced by the newest state there is."""
        if found["_etag"] == item.taken_etag:
            await self._quarantine.confirm(item)
            return None
        newer = await self._quarantine.untaken(item, found)
        if newer is not None:
            return superseded(item, newer)
        _log.warning("cosmos.untaken_quarantined", **names(item))
        return None


def superseded(item: Publish, found: Stamp) -> Superseded:
    """Say that a newer state is there, and log it."""
    _log.debug("cosmos.write_superseded", **names(item), found=str(found))
    return Superseded(found)


def names(item: Publish) -> dict[str, str]:
    """Return what a log may say of a state."""
    return {"entity": item.identity.entity, "document_id": item.identity.id, "stamp": str(item.stamp)}


def _compare(item: Publish, found: Document, author: Ours) -> None:
    """Compare two states of one stamp.

    A stamp is given out once, so two states that both verify mean that Postgres has forgotten the commit that the first
    was made of, and given the stamp out again: it was restored, or promoted without its last commits. What only one of
    them has says nothing: the model got another field since, and the row was not written. Nor does the image of a
    document that was written in Cosmos DB: it may keep less than the document has.
    """
    if is_same_state(found, item.document):
        return
    if author.origin is Origin.POSTGRES and (
        author.deleted != item.deleted or contradict(content_of(found), content_of(item.document))
    ):
        msg = (
            f"Cosmos DB holds another state of {item.identity.entity} {item.identity.id!r} with the very same stamp"
            f" {item.stamp}: Postgres has lost commits that were sent (restored, rolled back, or a failover that lost"
            " some); stop, find out which, and run `crossfeed outbox resync`"
        )
        raise HistoryLostError(msg)
    _log.error("cosmos.one_stamp_two_contents", **names(item))


def contradict(found: Any, ours: Any) -> bool:  # noqa: ANN401 - any JSON values
    """Whether two values disagree about something that both of them have."""
    match found, ours:
        case dict(), dict():
            return any(contradict(found[key], ours[key]) for key in found.keys() & ours.keys())
        case list(), list():
            return len(found) != len(ours) or any(map(contradict, found, ours))
        case _:
            return bool(found != ours)
