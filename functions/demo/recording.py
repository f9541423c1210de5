"""Wraps units of work so that what they commit is taken down in the ledger, and nothing else.

They may meet a switch: each belongs to the phase that was recorded before and after it began.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from core.entity import Entity, Loaded, loaded
from core.errors import PrimaryMovedError
from core.repository import EntityRepository
from core.stamp import Stamp
from core.transact import transact
from functions.demo.ledger import Kind, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from core.content import Document
    from core.crossfeed import Crossfeed
    from core.events import Event
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.repository import Repository, UnitOfWork
    from functions.demo.ledger import Ledger

DEADLINE_S = 30.0
"""How long a use case is repeated that was refused, in seconds."""

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
        ledger: where acknowledged writes go.

    """

    def __init__(self, db: Crossfeed, mappings: Mappings, ledger: Ledger) -> None:
        self._db = db
        self.mappings = mappings
        self._ledger = ledger

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[RecordingUnit]:
        """Begin a unit of work.

        Raises:
            PrimaryMovedError: as from Crossfeed.unit_of_work, or a step was made just as it began.

        """
        before = await self._db.phase()
        async with self._db.unit_of_work() as work:
            phase = await self._db.phase()
            if phase.epoch != before.epoch:
                msg = "a step was made just now"
                raise PrimaryMovedError(msg)
            yield RecordingUnit(work, self, phase)

    async def transact(self, use_case: Callable[[UnitOfWork], Awaitable[None]]) -> None:
        """Run a use case as Crossfeed.transact does: it notices nothing of a switch but its pause."""
        await transact(self.unit_of_work, use_case, DEADLINE_S)

    async def in_parts(self, use_case: Callable[[], Awaitable[object]]) -> None:
        """Run what is several units of work and may be repeated from its beginning, until no switch refuses it."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(PrimaryMovedError),
            stop=stop_after_delay(DEADLINE_S),
            wait=wait_random(0, 0.1),
            reraise=True,
        ):
            with attempt:
                await use_case()

    def committed(self, intents: list[_Intent], phase: PhaseRow) -> None:
        """Take down what a commit made durable in a phase."""
        at = time.perf_counter()
        for intent in intents:
            before, now = intent.before, loaded(intent.entity)
            if before is not None and (now is None or now.identity != before.identity):
                # A key that changed is a delete of the old identity and a new document.
                epoch = phase.epoch if now is None else now.stamp.epoch
                stamp = Stamp(epoch, before.stamp.version + 1)
                self._ledger.acknowledged(Write(before.identity, Kind.DELETE, phase.primary, stamp, None, None, at))
            if now is not None:
                kind = intent.kind if before is not None and now.identity == before.identity else Kind.CREATE
                self._ledger.acknowledged(
                    Write(now.identity, kind, phase.primary, now.stamp, now.etag, intent.content, at)
                )


class RecordingUnit:
    """Implements core.repository.UnitOfWork. A document is written once per unit in the demo's use cases.

    `primary` is the store that it writes to.
    """

    def __init__(self, work: UnitOfWork, recorder: Recorder, phase: PhaseRow) -> None:
        self.primary = phase.primary
        self._work = work
        self._recorder = recorder
        self._phase = phase
        self._intents: list[_Intent] = []

    def __getitem__(self, model: type[T]) -> Repository[T]:
        """See UnitOfWork."""
        return _RecordingRepository(self._work[model], self._recorder.mappings.of(model), self._intents)

    def of(self, repository: type[R]) -> R:
        """See UnitOfWork."""
        return repository(self[repository.model])

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """See UnitOfWork."""
        self._work.record(event, of=of)

    async def commit(self) -> None:
        """See UnitOfWork."""
        await self._work.commit()
        self._recorder.committed(self._intents, self._phase)
        self._intents.clear()

    async def rollback(self) -> None:
        """See UnitOfWork."""
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
