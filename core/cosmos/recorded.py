"""Keeps the events that a unit of work records on Cosmos DB, where they travel in their aggregate's own document.

So they are atomic with the state, also where the partition key is the id. Each write of the document carries on what it
carried before, because the change feed may show the last of several writes alone. An event leaves the document when it
is seen in the container of events: then the mirror has taken it into the log, and the relay has delivered it.

A foreign writer that replaces a document and does not keep our property takes along what the mirror has not seen yet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from core.content import content_of
from core.cosmos.buffer import Base, Pending
from core.cosmos.event_documents import delivered_ids
from core.cosmos.patience import patiently_read
from core.entity import Entity, loaded
from core.envelope import Ours, author_of, claimed_version, is_deleted, is_internal
from core.errors import ConcurrencyError, CrossfeedError, NotFoundError, PrimaryMovedError
from core.events import events_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.events import Event, EventMaker
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How long a commit looks for what was delivered, in seconds; then its document carries everything on."""


@dataclass(slots=True)
class _Recorded:
    events: list[Document] = field(default_factory=list)
    holders: list[Entity] = field(default_factory=list)


class RecordedEvents:
    """The events of one unit of work.

    Args:
        store: the opened database.
        documents: of all mapped containers.
        mappings: all mappings.
        epoch: the unit's epoch.
        maker: makes the envelopes.

    """

    def __init__(
        self, store: CosmosStore, documents: CosmosDocuments, mappings: Mappings, epoch: int, maker: EventMaker
    ) -> None:
        self._store = store
        self._documents = documents
        self._mappings = mappings
        self._epoch = epoch
        self._maker = maker
        self._by_identity: dict[Identity, _Recorded] = {}

    def record(self, event: Event, of: Entity | Identity) -> None:
        """See UnitOfWork.record."""
        identity = self._mappings.identity_of(of)
        envelope = self._maker.envelope(event, identity)
        recorded = self._by_identity.setdefault(identity, _Recorded())
        recorded.events.append(envelope)
        if isinstance(of, Entity):
            recorded.holders.append(of)

    def take(self) -> RecordedEvents:
        """Hand over what was recorded; this one is empty afterwards."""
        taken = RecordedEvents(self._store, self._documents, self._mappings, self._epoch, self._maker)
        taken._by_identity, self._by_identity = self._by_identity, {}
        return taken

    def clear(self) -> None:
        """Forget all of them."""
        self._by_identity.clear()

    async def bearers(self, written: Iterable[Identity]) -> list[Pending]:
        """Return a write for each aggregate of which nothing but an event is written: its state, read now, as it is.

        Raises:
            NotFoundError: the aggregate was never there.
            PrimaryMovedError: its document was written in a later epoch than this unit's.
            StoreUnavailableError: Cosmos DB did not answer.

        """
        missing = self._by_identity.keys() - set(written)
        return [await self._bearer(identity) for identity in self._by_identity if identity in missing]

    async def to_carry(self, identity: Identity, base: Base | None) -> list[Document]:
        """Return what the next document of an aggregate carries: events that are not delivered, then the new ones."""
        carried = base.carried if base is not None else ()
        if carried:
            carried = carried[await self._delivered(identity, carried) :]
        recorded = self._by_identity.get(identity)
        return [*carried, *(recorded.events if recorded is not None else ())]

    async def check_delivered(self, identity: Identity, carried: tuple[Document, ...]) -> None:
        """Refuse to give up the document of another aggregate, with the events that it carries.

        Raises:
            ConcurrencyError: they are not delivered yet.

        """
        if carried and await self._delivered(identity, carried) < len(carried):
            msg = f"{identity} was deleted there, and its events are still under way; try again in a moment"
            raise ConcurrencyError(msg)

    async def _bearer(self, identity: Identity) -> Pending:
        document = await patiently_read(partial(self._documents.read, identity))
        mapping = self._mappings.named(identity.entity)
        if document is None or is_internal(document) or not self._is_of(mapping, document):
            msg = f"an event of {identity}, which was never there; add the aggregate first"
            raise NotFoundError(msg)
        author = author_of(document)
        if isinstance(author, Ours) and author.stamp.epoch > self._epoch:
            msg = f"{identity} was written in epoch {author.stamp.epoch}, this unit of work is of {self._epoch}"
            raise PrimaryMovedError(msg)
        base = Base(str(document["_etag"]), claimed_version(document), events_of(document, identity))
        content = None if is_deleted(document) else content_of(document)
        holders = [holder for holder in self._by_identity[identity].holders if _etag(holder) == base.etag]
        return Pending(mapping, identity, base, content, holders)

    def _is_of(self, mapping: EntityMapping[Any], document: Document) -> bool:
        return self._mappings.mapping_of(mapping.container, document) is mapping

    async def _delivered(self, identity: Identity, carried: tuple[Document, ...]) -> int:
        """Return how many of the events, the oldest ones, are delivered as far as can be told now."""
        try:
            async with asyncio.timeout(LOOK_S):
                found = await delivered_ids(self._store, identity, [str(event["id"]) for event in carried])
        except (CrossfeedError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            log.warning("cosmos.events_carried_on", entity=identity.entity, events=len(carried), why=why)
            return 0
        return max((place for place, event in enumerate(carried, 1) if event["id"] in found), default=0)


def _etag(entity: Entity) -> str | None:
    state = loaded(entity)
    return None if state is None else state.etag
