"""One transaction on Cosmos DB: buffered writes, sent at commit as one operation or as one transactional batch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from core.cosmos.buffer import Base, Buffer, Pending
from core.cosmos.documents import CosmosDocuments
from core.cosmos.failures import DRIVER_ERRORS, Changed, Exists, failure_of, guilty_index, write_error
from core.cosmos.patience import patiently_read, patiently_write
from core.cosmos.recorded import RecordedEvents
from core.cosmos.repository import CosmosRepository
from core.cosmos.write_gate import Ungated
from core.entity import Entity, Loaded, mark_loaded
from core.envelope import Origin, Ours, author_of, claimed_version, is_deleted, put_trace, stamped
from core.errors import AlreadyExistsError, CrossPartitionError, PermanentError, PrimaryMovedError
from core.events import EventMaker, carry, events_of
from core.stamp import Stamp
from core.tracing import UnitTrace

if TYPE_CHECKING:
    from types import TracebackType

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.write_gate import WriteGate
    from core.events import Event
    from core.identity import Identity
    from core.mappings import Mappings
    from core.repository import EntityRepository

T = TypeVar("T", bound=Entity)
R = TypeVar("R", bound="EntityRepository[Any]")

MAX_OPERATIONS: Final = 100
"""How many operations one transactional batch of Cosmos DB takes."""

TOMBSTONE_TTL_S: Final = 30 * 24 * 3600
_MAX_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class _Operation:
    """What is sent for one pending write: a create, or a replace of the document with this ETag."""

    pending: Pending
    document: Document
    stamp: Stamp
    etag: str | None
    events: tuple[Document, ...]


class CosmosUnitOfWork:
    """Implements core.repository.UnitOfWork; writes while Cosmos DB is the primary.

    Args:
        store: the opened database.
        mappings: all mappings.
        epoch: the current epoch, which stamps the writes.
        tombstone_ttl_s: how long a tombstone lives, in seconds.
        maker: makes the envelopes of recorded events.
        gate: lets writes through, each when it is sent and when it is answered; all of them unless given.
        verified: whether reads find out if a stamp is to be trusted, which costs a hash of each document.

    """

    def __init__(  # noqa: PLR0913 - the facts of a unit of work
        self,
        store: CosmosStore,
        mappings: Mappings,
        epoch: int,
        tombstone_ttl_s: int = TOMBSTONE_TTL_S,
        *,
        maker: EventMaker = EventMaker(),  # noqa: B008 - frozen
        gate: WriteGate = Ungated(),  # noqa: B008 - has no state
        verified: bool = False,
    ) -> None:
        self._store = store
        self._mappings = mappings
        self._epoch = epoch
        self._ttl_s = tombstone_ttl_s
        self._gate = gate
        self._verified = verified
        self._buffer = Buffer(epoch)
        self._documents = CosmosDocuments(store, mappings)
        self._recorded = RecordedEvents(store, self._documents, mappings, epoch, maker)
        self._trace = UnitTrace("cosmos")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._trace.end(error)
        await self.rollback()

    def __getitem__(self, model: type[T]) -> CosmosRepository[T]:
        """See UnitOfWork."""
        mapping = self._mappings.of(model)
        return CosmosRepository(
            self._store, self._mappings, mapping, self._buffer, self._epoch, verified=self._verified
        )

    def of(self, repository: type[R]) -> R:
        """See UnitOfWork."""
        return repository(self[repository.model])

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """See UnitOfWork. The event travels in its aggregate's document, whose partition is the unit's."""
        with self._trace.inside():
            self._recorded.record(event, of)

    async def rollback(self) -> None:
        """See UnitOfWork."""
        self._buffer.clear()
        self._recorded.clear()

    async def commit(self) -> None:
        """See UnitOfWork. After a failure the unit is empty, and its entities are as they were.

        Raises:
            PermanentError: more than 100 writes; Cosmos DB takes no more in one transaction.
            PrimaryMovedError: the gate did not let a request through; nothing was written.
            OutcomeUnknownError: also where the gate had closed before the answer was handled.

        """
        written = list(self._buffer)
        recorded = self._recorded.take()
        self._buffer.clear()
        tombstones: dict[int, Base] = {}
        for rounds_left in reversed(range(_MAX_ROUNDS)):
            pending = [*written, *await recorded.bearers(write.identity for write in written)]
            if not pending:
                return
            _check_scope(pending)
            operations = [
                await self._operation(write, write.base or tombstones.get(index), recorded)
                for index, write in enumerate(pending)
            ]
            try:
                etags = await patiently_write(partial(self._send, operations))
            except DRIVER_ERRORS as error:
                failure = failure_of(error)
                in_the_way = isinstance(failure, Exists) and rounds_left > 0
                tombstones = await self._tombstones(pending, recorded) if in_the_way else tombstones
                again = in_the_way and bool(tombstones)
                # The state of an aggregate that only bears an event is nobody's decision: it is read again.
                again = again or (isinstance(failure, Changed) and guilty_index(error) >= len(written))
                if not again or not rounds_left:
                    raise write_error(error, _described(pending)) from error
            else:
                for operation, etag in zip(operations, etags, strict=True):
                    _mark_committed(operation, etag)
                self._trace.committed()
                return

    async def _operation(self, write: Pending, base: Base | None, recorded: RecordedEvents) -> _Operation:
        stamp = Stamp(self._epoch, (base.version if base else 0) + 1)
        deleted = write.content is None
        content = write.mapping.tombstone_content(write.identity, self._ttl_s) if deleted else write.content
        document = stamped(content or {}, stamp, Origin.COSMOS, deleted=deleted)
        events = await recorded.to_carry(write.identity, base)
        carry(document, events)
        put_trace(document, self._trace.traceparent)
        return _Operation(write, document, stamp, base.etag if base else None, tuple(events))

    async def _send(self, operations: list[_Operation]) -> list[str]:
        """Send all operations atomically; return the new ETags. Lets the client's errors and the gate's through."""
        [first, *others] = operations
        identity = first.pending.identity
        await self._documents.prepare(identity)
        async with self._gate.writing(self._epoch):
            if others:
                return await self._documents.transact(identity, list(map(_batched, operations)))
            if first.etag is None:
                return [await self._documents.create(identity, first.document)]
            return [await self._documents.replace(identity, first.document, first.etag)]

    async def _tombstones(self, pending: list[Pending], recorded: RecordedEvents) -> dict[int, Base]:
        """Find the tombstones in the way of entities that are added: they may be replaced.

        Raises:
            AlreadyExistsError: a live document is in the way, of this type or of another.
            ConcurrencyError: a tombstone of another type is, with events that are not delivered yet.
            PrimaryMovedError: a tombstone of a later epoch is.

        """
        added = [index for index, write in enumerate(pending) if write.base is None]
        reads = (patiently_read(partial(self._documents.read, pending[index].identity)) for index in added)
        documents = await asyncio.gather(*reads, return_exceptions=True)  # so that none goes on behind our back
        found: dict[int, Base] = {}
        for index, document in zip(added, documents, strict=True):
            if isinstance(document, BaseException):
                raise document
            if document is None:
                continue
            identity = pending[index].identity
            if not is_deleted(document):
                raise AlreadyExistsError(self._in_the_way(pending[index], document))
            author = author_of(document)
            if isinstance(author, Ours) and author.stamp.epoch > self._epoch:
                msg = f"{identity} was deleted in epoch {author.stamp.epoch}, this unit of work is of {self._epoch}"
                raise PrimaryMovedError(msg)
            holder = self._mappings.mapping_of(pending[index].mapping.container, document)
            if holder is not None and holder is not pending[index].mapping:
                theirs = holder.identity(document)
                await recorded.check_delivered(theirs, events_of(document, theirs))
            found[index] = Base(str(document["_etag"]), claimed_version(document), events_of(document, identity))
        return found

    def _in_the_way(self, write: Pending, document: Document) -> str:
        holder = self._mappings.mapping_of(write.mapping.container, document)
        if holder is write.mapping:
            return f"{write.identity} exists already"
        what = f"a {holder.name}" if holder is not None else "a document of a type that no mapping names"
        return (
            f"{write.identity} cannot be added: {what} has the same partition key and id in {write.mapping.container!r}"
        )


def _mark_committed(operation: _Operation, etag: str) -> None:
    pending = operation.pending
    state = None
    if pending.content is not None:
        state = Loaded(pending.identity, operation.stamp, etag, operation.events, trusted=True)
    for holder in pending.holders:
        mark_loaded(holder, state)


def _check_scope(pending: list[Pending]) -> None:
    scopes = {(write.mapping.container, write.identity.partition_key) for write in pending}
    if len(scopes) > 1:
        containers = sorted({container for container, _ in scopes})
        msg = (
            f"this unit of work writes to {len(scopes)} logical partitions (of {', '.join(containers)});"
            " Cosmos DB commits one atomically: use a unit of work for each"
        )
        raise CrossPartitionError(msg)
    if len(pending) > MAX_OPERATIONS:
        msg = f"this unit of work has {len(pending)} writes; Cosmos DB commits at most {MAX_OPERATIONS} atomically"
        raise PermanentError(msg)


def _batched(operation: _Operation) -> tuple[Any, ...]:
    if operation.etag is None:
        return ("create", (operation.document,))
    return ("replace", (operation.pending.identity.id, operation.document), {"if_match_etag": operation.etag})


def _described(pending: list[Pending]) -> str:
    first = pending[0].identity
    more = f" and {len(pending) - 1} more" if len(pending) > 1 else ""
    return f"committing {first.entity} {first.id!r}{more}"
