"""Decorates a unit of work: reads go through the cache until it writes, and what it wrote is told to the cache."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from core.cache.bodies import pointer_body, touched, values_of
from core.cache.entries import Change
from core.cache.repository import CachedRepository
from core.cache.seen import Nothing
from core.entity import Entity, Loaded, known_by, loaded, mark_known_by
from core.envelope import Origin
from core.errors import ConflictError, DocumentRefusedError, PrimaryMovedError
from core.stamp import Stamp
from core.transact import NOTHING_WRITTEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import TracebackType

    from core.cache.client import Cache
    from core.cache.entries import Hit
    from core.events import Event
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.phases import PhaseRow
    from core.repository import EntityRepository, UnitOfWork

T = TypeVar("T", bound=Entity)
R = TypeVar("R", bound="EntityRepository[Any]")


@dataclass(frozen=True, slots=True)
class _Write:
    """A write through a repository, as it was asked for.

    Attributes:
        mapping: of the entity.
        entity: as the caller holds it.
        identity: that it was written with.
        before: what it had been read as.
        was: its look-up values when it was read or written last.
        is_: those that were written; none for a delete.
        gone: whether it was deleted.

    """

    mapping: EntityMapping[Any]
    entity: Entity
    identity: Identity
    before: Loaded | None
    was: tuple[object, ...]
    is_: tuple[object, ...]
    gone: bool


class CachedUnitOfWork:
    """Implements core.repository.UnitOfWork.

    async with CachedUnitOfWork(work, cache, phase) as cached:
        …

    Args:
        work: the unit of work that is decorated, on the primary of the phase; entered, READ COMMITTED if on Postgres.
        cache: of the process.
        phase: as it was when the unit began. What was loaded in another one is not believed.
        catch_up: lets no later read of a container be older than now; None where none ever is.

    """

    def __init__(
        self,
        work: UnitOfWork,
        cache: Cache,
        phase: PhaseRow,
        catch_up: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self._work = work
        self._cache = cache
        self._catch_up = catch_up
        self._on_postgres = phase.primary is Origin.POSTGRES
        self._writes: list[_Write] = []
        self._bearers: set[Identity] = set()
        self._served: dict[str, bytes] = {}
        self._has_sql = False
        self._is_writing = False
        self.epoch = phase.epoch

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Tell what may have been committed by way of the connection."""
        if self._has_sql:
            await self._tell(is_known=False)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the unit of work has
        """Return what only the store's unit has, `connection` on Postgres; whoever asks may write what nobody sees."""
        found = getattr(self._work, name)
        self._has_sql = True
        return found

    def __getitem__(self, model: type[T]) -> CachedRepository[T]:
        """See UnitOfWork."""
        return CachedRepository(self._work[model], self._cache.mappings.of(model), self, self._cache)

    def of(self, repository: type[R]) -> R:
        """See UnitOfWork."""
        return repository(self[repository.model])

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """See UnitOfWork. In Cosmos DB the event goes into its aggregate's document, which is another one then."""
        self._work.record(event, of=of)
        self._bearers.add(self._cache.mappings.identity_of(of))

    async def commit(self) -> None:
        """See UnitOfWork. What was written is out of the cache when this returns, if Redis answers in time."""
        try:
            await self._work.commit()
        except NOTHING_WRITTEN as error:
            if isinstance(error, ConflictError):
                await self._doubt(error, *(write.identity for write in self._writes))
            self._forget()
            raise
        except BaseException:
            await self._tell(is_known=False)
            raise
        if self._has_sql:
            self._cache.seen.distrust()
        await self._tell(is_known=True)

    async def rollback(self) -> None:
        """See UnitOfWork."""
        await self._work.rollback()
        self._forget()

    # -- for the repositories

    @property
    def is_direct(self) -> bool:
        """Whether reads go to the store: the unit has written, or may have, what only its transaction shows."""
        return self._has_sql or self._is_writing

    async def catch_up(self, mapping: EntityMapping[Any]) -> None:
        """Let no later read be answered by a replica that is behind.

        Raises:
            StoreUnavailableError: Cosmos DB did not answer.

        """
        if self._catch_up is not None:
            await self._catch_up(mapping.container)

    def served(self, key: str, hit: Hit) -> None:
        """Note an answer from the cache: a conflict may come of it."""
        self._served[key] = hit.since

    @asynccontextmanager
    async def writing(self, mapping: EntityMapping[T], entity: T, *, gone: bool = False) -> AsyncIterator[None]:
        """Note a write."""
        before, was = loaded(entity), known_by(entity)
        self._is_writing = True  # from now on, as another task of the unit may read meanwhile
        try:
            yield
        except ConflictError as error:
            await self._doubt(error, *_identities(mapping, entity, before))
            raise
        is_ = () if gone else values_of(mapping, entity)
        [identity, *_] = _identities(mapping, entity, before)
        mark_known_by(entity, is_)
        self._writes.append(_Write(mapping, entity, identity, before, was, is_, gone))

    # -- inside

    def _forget(self) -> None:
        """Nothing was written, unless by way of the connection."""
        self._is_writing = False
        if not self._has_sql:
            self._writes.clear()
        self._bearers.clear()

    async def _doubt(self, error: ConflictError, *written: Identity) -> None:
        """Believe no more what the cache served: whoever tries again shall not meet the same conflict."""
        if isinstance(error, PrimaryMovedError):
            return
        served, self._served = self._served, {}
        for key in {*served, *map(self._cache.entries.key, written)}:
            self._cache.seen.note(key, Nothing.UNKNOWN)
        if served:
            await self._cache.entries.refuse(served)

    async def _tell(self, *, is_known: bool) -> None:
        """Note and tell what was written, or may have been."""
        writes, self._writes, self._is_writing = self._writes, [], False
        bearers, self._bearers = self._bearers.difference(write.identity for write in writes), set()
        changes = [change for write in writes for change in self._changes(write, is_known=is_known)]
        for identity in bearers:
            key = self._cache.entries.key(identity)
            self._cache.seen.note(key, Nothing.UNKNOWN)
            changes.append(Change(key, settled=is_known and self._on_postgres))
        if changes:
            await self._cache.tell(changes)

    def _changes(self, write: _Write, *, is_known: bool) -> Iterator[Change]:
        entries, seen = self._cache.entries, self._cache.seen
        stamp = self._stamp(write) if is_known else None
        mark = Nothing.UNKNOWN if stamp is None else Nothing.ABSENT if write.gone else stamp
        # In Cosmos DB a foreign writer may have put an old document back, or removed one: then it counts anew.
        follows = self._on_postgres
        seen.note(entries.key(write.identity), mark)
        yield Change(entries.key(write.identity), stamp, gone=write.gone, instead=not follows)
        if write.before is not None and write.before.identity != write.identity:
            key = entries.key(write.before.identity)
            seen.note(key, Nothing.UNKNOWN)
            yield Change(key, settled=is_known and self._on_postgres)
        settled = is_known and self._on_postgres
        if write.was and write.was != write.is_:
            for lookup, value in touched(write.mapping, write.was):
                key = entries.lookup_key(write.mapping.name, lookup, value)
                seen.note(key, Nothing.UNKNOWN)
                yield Change(key, settled=settled)
        if write.is_:
            for lookup, value in touched(write.mapping, write.is_):
                key = entries.lookup_key(write.mapping.name, lookup, value)
                seen.note(key, write.identity if is_known else Nothing.UNKNOWN)
                yield Change(key, keep=pointer_body(write.identity), settled=settled)

    def _stamp(self, write: _Write) -> Stamp | None:
        """Return the stamp of a write that was committed, or an older one that was not there before it either."""
        if not write.gone:
            state = loaded(write.entity)
            return None if state is None or not state.trusted else state.stamp
        before = write.before
        return None if before is None or not before.trusted else Stamp(before.stamp.epoch, before.stamp.version + 1)


def _identities(mapping: EntityMapping[T], entity: T, before: Loaded | None) -> Iterator[Identity]:
    """Yield the identity that an entity is written with, and that of before."""
    state = loaded(entity) or before
    if state is not None:
        yield state.identity
        return
    with suppress(DocumentRefusedError):
        yield mapping.identity(mapping.document(entity))
