"""Wraps units of work so that what they commit is taken down in the ledger, and nothing else."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from core.entity import Entity, Loaded, loaded
from core.repository import EntityRepository
from core.stamp import Stamp
from functions.demo.ledger import Kind, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.content import Document
    from core.crossfeed import Crossfeed
    from core.events import Event
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.repository import Repository, UnitOfWork
    from functions.demo.ledger import Ledger

T = TypeVar("T", bound=Entity)
R = TypeVar("R", bound="EntityRepository[Any]")


@dataclass(frozen=True, slots=True)
class _Intent:
    kind: Kind
    entity: Entity
    before: Loaded | None
    content: Document | None


class Recorder:
    """Opens units of work whose commits go to the ledger.

    Args:
        db: the library under demonstration.
        mappings: of the entities.
        phase: the phase that is open for as long as this recorder is used.
        ledger: where acknowledged writes go.

    """

    def __init__(self, db: Crossfeed, mappings: Mappings, phase: PhaseRow, ledger: Ledger) -> None:
        self._db = db
        self.mappings = mappings
        self._phase = phase
        self._ledger = ledger

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """Begin a unit of work."""
        async with self._db.unit_of_work() as work:
            yield _RecordingUnit(work, self)

    def committed(self, intents: list[_Intent]) -> None:
        """Take down what a commit made durable."""
        at = time.perf_counter()
        for intent in intents:
            before, now = intent.before, loaded(intent.entity)
            if before is not None and (now is None or now.identity != before.identity):
                # A key that changed is a delete of the old identity and a new document.
                stamp = Stamp(self._phase.epoch, before.stamp.version + 1)
                self._ledger.acknowledged(
                    Write(before.identity, Kind.DELETE, self._phase.primary, stamp, None, None, at)
                )
            if now is not None:
                kind = intent.kind if before is not None and now.identity == before.identity else Kind.CREATE
                self._ledger.acknowledged(
                    Write(now.identity, kind, self._phase.primary, now.stamp, now.etag, intent.content, at)
                )


class _RecordingUnit:
    """Implements core.repository.UnitOfWork. A document is written once per unit in the demo's use cases."""

    def __init__(self, work: UnitOfWork, recorder: Recorder) -> None:
        self._work = work
        self._recorder = recorder
        self._intents: list[_Intent] = []

    def __getitem__(self, model: type[T]) -> Repository[T]:
        return _RecordingRepository(self._work[model], self._recorder.mappings.of(model), self._intents)

    def of(self, repository: type[R]) -> R:
        return repository(self[repository.model])

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        self._work.record(event, of=of)

    async def commit(self) -> None:
        await self._work.commit()
        self._recorder.committed(self._intents)
        self._intents.clear()

    async def rollback(self) -> None:
        self._intents.clear()
        await self._work.rollback()


class _RecordingRepository(EntityRepository[T]):
    def __init__(self, store: Repository[T], mapping: EntityMapping[T], intents: list[_Intent]) -> None:
        super().__init__(store)
        self._mapping = mapping
        self._intents = intents

    async def add(self, entity: T) -> None:
        content = self._mapping.document(entity)
        await self._store.add(entity)
        self._intents.append(_Intent(Kind.CREATE, entity, None, content))

    async def update(self, entity: T) -> None:
        before, content = loaded(entity), self._mapping.document(entity)
        await self._store.update(entity)
        self._intents.append(_Intent(Kind.UPDATE, entity, before, content))

    async def delete(self, entity: T) -> None:
        before = loaded(entity)
        await self._store.delete(entity)
        self._intents.append(_Intent(Kind.DELETE, entity, before, None))
