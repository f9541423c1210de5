"""Writes documents that share a logical partition together: one request, all of them or none.

A batch that fails names the operation that failed. That one is taken out and judged alone, after its innocent siblings
were sent again without it: one that waits for a unique key which a sibling gives up then finds it free.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, assert_never

import orjson
from azure.cosmos.exceptions import CosmosBatchOperationError

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
    guilty_index,
)
from core.cosmos.gathering import all_ended
from core.cosmos.publish import Postponed, Refused, Superseded, Unchanged, Written
from core.cosmos.views import Absent, Seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core.content import Document
    from core.cosmos.calls import Call, Job
    from core.cosmos.documents import CosmosDocuments
    from core.cosmos.lanes import Lane
    from core.cosmos.persistence import Persistence
    from core.cosmos.publish import Quarantine
    from core.cosmos.singles import SingleWriter
    from core.cosmos.views import View, Views

MOST_OPERATIONS: Final = 100
MOST_BYTES: Final = 1_000_000
"""Cosmos DB takes 2 MB a batch; a body of more than 1 MiB makes aiohttp block the loop while it is sent."""

MOST_GUILTY: Final = 8
"""When so many of one batch had to be taken out, the rest goes one by one: it is no batch that could succeed."""

WRONG_VIEWS: Final = 2
"""When so many of one batch were not what they were remembered as, all of its documents are looked at again."""


class AloneWriter(Protocol):
    """Writes one document by itself, insisting on it."""

    async def __call__(self, job: Job, call: Call, lane: Lane, *, look_first: bool = False) -> None:
        """Decide the job."""
        ...


class BatchWriter:
    """Writes documents in transactional batches.

    Args:
        documents: does them.
        views: what is known of them.
        singles: looks at what is not known.
        quarantine: knows whether Postgres still is primary.
        persistence: insists.
        alone: writes what must go alone.

    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is wired from
        self,
        documents: CosmosDocuments,
        views: Views,
        singles: SingleWriter,
        quarantine: Quarantine,
        persistence: Persistence,
        alone: AloneWriter,
    ) -> None:
        self._documents = documents
        self._views = views
        self._singles = singles
        self._quarantine = quarantine
        self._persistence = persistence
        self._alone = alone

    async def write(self, jobs: Sequence[Job], call: Call, lane: Lane) -> None:
        """Decide jobs of one logical partition, each of another document.

        Raises:
            CrossfeedError: see SingleWriter.write.

        """
        await all_ended(call.or_stop(self._batch(batch, call, lane)) for batch in _batches(jobs))

    async def _batch(self, jobs: list[Job], call: Call, lane: Lane) -> None:
        batch = _Batch(jobs)
        partition = jobs[0].item.identity.partition_key
        ended = await self._persistence.insist(partial(self._attempt, batch, call, lane), lane, partition, call.pause)
        if isinstance(ended, Postponed):
            for job in batch.open:
                lane.postponed()
                call.decide(job, ended)
        await all_ended(call.or_stop(self._alone(job, call, lane, look_first=True)) for job in batch.alone)

    async def _attempt(self, batch: _Batch, call: Call, lane: Lane) -> None:
        """Send what is open until it was written, or until it cannot be written together.

        May be repeated after a CosmosUnavailableError: what is decided, and what must go alone, is so for good.
        """
        while len(batch.open) > 1:
            await self._look(batch, call, lane)
            if len(batch.open) < 2:  # noqa: PLR2004 - one is no batch
                break
            await self._send(batch, call, lane)
        batch.alone.extend(batch.open)
        batch.open.clear()

    async def _look(self, batch: _Batch, call: Call, lane: Lane) -> None:
        """Find out where each document is, and decide those that are newer already."""
        unknown: list[Job] = []
        for job in batch.open:
            if job not in batch.views:
                view = None if batch.must_look else self._views.expected(job.item)
                if view is None:
                    unknown.append(job)
                else:
                    batch.found(job, view, call, lane)

        async def look(job: Job) -> None:
            batch.found(job, await self._singles.look(job.item, call, lane), call, lane)

        try:
            await all_ended(map(look, unknown))
        finally:
            batch.open = [job for job in batch.open if job.outcome is None]

    async def _send(self, batch: _Batch, call: Call, lane: Lane) -> None:
        jobs = batch.open
        try:
            etags = await lane.send(
                partial(self._transact, batch, call),
                call.may_read,
                jobs[0].item.identity.partition_key,
                operations=len(jobs),
                backlog=call.backlog,
            )
        except DRIVER_ERRORS as error:
            self._failed(batch, error)
            return
        for job, etag in zip(jobs, etags, strict=True):
            self._views.keep(job.item.identity, Seen(etag, job.item.stamp))
            lane.worked()
            call.decide(job, Written(etag))
        batch.open = []

    async def _transact(self, batch: _Batch, call: Call) -> list[str]:
        identity = batch.open[0].item.identity
        await self._documents.prepare(identity)
        for job in batch.open:
            if isinstance(batch.views[job], Absent):
                await self._quarantine.confirm(job.item)
        call.may_write()
        operations = [_operation(job, batch.views[job]) for job in batch.open]
        return await self._documents.transact(identity, operations)

    def _failed(self, batch: _Batch, error: BaseException) -> None:
        """Take out who was guilty, or raise what nobody was."""
        what = f"writing {len(batch.open)} of {batch.open[0].item.identity.entity}"
        match failure_of(error):
            case Unavailable(reason, retry_after_s):
                raise CosmosUnavailableError(f"{what}: {reason}", retry_after_s) from error
            case Unanswered(reason):  # each will be looked at, and found with its own stamp if it was written
                self._forget(batch)
                raise CosmosUnavailableError(f"{what}: {reason}") from error
            case Exists() | Changed() | Missing():
                self._take_out(batch, error)
                batch.wrong_views += 1
                if batch.wrong_views == WRONG_VIEWS:
                    self._forget(batch)
            case Unacceptable():
                self._take_out(batch, error)
            case other:
                assert_never(other)

    def _take_out(self, batch: _Batch, error: BaseException) -> None:
        if not isinstance(error, CosmosBatchOperationError) or len(batch.alone) >= MOST_GUILTY:
            batch.alone.extend(batch.open)
            batch.open = []
        else:
            batch.alone.append(batch.open.pop(guilty_index(error)))
        for job in batch.alone:
            self._views.forget(job.item.identity)

    def _forget(self, batch: _Batch) -> None:
        for job in batch.open:
            self._views.forget(job.item.identity)
        batch.views.clear()
        batch.must_look = True


class _Batch:
    """What is left of one batch: still to be sent together, or each alone; and what is there of each."""

    __slots__ = ("alone", "must_look", "open", "views", "wrong_views")

    def __init__(self, jobs: list[Job]) -> None:
        self.open = jobs
        self.alone: list[Job] = []
        self.views: dict[Job, View] = {}
        self.wrong_views = 0
        self.must_look = False

    def found(
        self, job: Job, view: View | Written | Unchanged | Superseded | Refused | Postponed, call: Call, lane: Lane
    ) -> None:
        if isinstance(view, Seen | Absent):
            self.views[job] = view
        else:
            lane.worked()
            call.decide(job, view)


def _operation(job: Job, view: View) -> tuple[Any, ...]:
    """Return the operation as the client takes it, which takes it apart: it is made anew for each attempt."""
    if isinstance(view, Absent):
        return ("create", (job.item.document,))
    return ("replace", (job.item.identity.id, job.item.document), {"if_match_etag": view.etag})


def _batches(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    batch: list[Job] = []
    size = 0
    for job in jobs:
        bytes_ = _size(job.item.document)
        if batch and (len(batch) == MOST_OPERATIONS or size + bytes_ > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += bytes_
    yield batch


def _size(document: Document) -> int:
    try:
        return len(orjson.dumps(document))
    except TypeError:  # an integer over 64 bits; escapes only make the estimate larger
        return len(json.dumps(document))
