"""Writes domain events to their container: each once, and those of one aggregate in their order.

One logical partition per aggregate (`/subject`), one document per event, its id the event's. A document is only ever
created: one that is there already with the same content is the very same event, delivered before. An event
is sent only once all earlier ones of its aggregate are known to be there: so a relay that slept, and a request that
arrives late, find what they bring done already. (For as long as an event's document lives: a container whose documents
expire forgets what it has had, and takes it again from a replay.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

import structlog

from core.cosmos.calls import Call
from core.cosmos.documents import transact
from core.cosmos.event_documents import EventMessage, document_of, find, is_same_event
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
from core.cosmos.lanes import Lanes
from core.cosmos.patience import patiently_read
from core.cosmos.persistence import PATIENCE_S, Persistence
from core.cosmos.publish import Postponed, Refused, Unchanged, Written
from core.errors import DocumentRefusedError
from core.events import subject_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.lanes import Lane
    from core.identity import Identity
    from core.settings import Settings

__all__ = ["EventMessage", "EventOutcome", "EventSink", "Held", "Postponed", "Refused", "Unchanged", "Written"]

log = structlog.get_logger()

MAX_OPERATIONS: Final = 100
MAX_BATCH_BYTES: Final = 1_800_000
"""What the documents of one transactional batch may have, spelled in ASCII; the request may have 2 MB."""


@dataclass(frozen=True, slots=True)
class Held:
    """An earlier event of its aggregate was refused or postponed; this one was not sent."""


EventOutcome = Written | Unchanged | Refused | Postponed | Held


def _always() -> None:
    """Let a caller without a lease write whenever it wants."""


class EventSink:
    """Writes events to their container. Tasks may share it if no two write the same aggregate.

    Args:
        store: the opened database.
        settings: how many requests may be under way at the same time, and what they may use up.
        lanes: where the requests go, if others go there as well.
        patience_s: how long infrastructure may fail for one aggregate, in seconds, before it is given up for now.

    """

    def __init__(
        self, store: CosmosStore, settings: Settings, *, lanes: Lanes | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self._store = store
        self._lanes = lanes or Lanes(settings.relay_concurrency, settings.relay_ru_per_second)
        self._persistence = Persistence(self._lanes, patience_s)

    async def write(
        self, events: Sequence[EventMessage], *, check: Callable[[], None] = _always, backlog: bool = False
    ) -> list[EventOutcome]:
        """Write events, those of one aggregate in the order given, aggregates concurrently.

        May be repeated with the same events at any time, also after a crash.

        Args:
            events: in the order of their numbers.
            check: called just before every request that writes; nothing is sent after it has raised.
            backlog: whether these yield to what is written at the same time.

        Returns:
            What became of each, in their order. After a refused or postponed event its aggregate's later ones are Held.

        Raises:
            CosmosUnavailableError: Cosmos DB does nothing any more for the whole container, with `retry_after_s` where
                it asked to wait; what was under way has ended.
            CrossfeedError: whatever `check` raises.

        """
        aggregates: dict[Identity, list[int]] = {}
        for index, event in enumerate(events):
            aggregates.setdefault(event.identity, []).append(index)
        outcomes: dict[int, EventOutcome] = {}
        call = Call(check, None, backlog)
        parts = [
            _Aggregate(self._store, self._lanes, self._persistence, call, events, indexes, outcomes)
            for indexes in aggregates.values()
        ]
        await all_ended([call.or_stop(part.write()) for part in parts])
        return [outcomes[index] for index in range(len(events))]


@dataclass(slots=True)
class _Aggregate:
    """The events of one aggregate on their way: those of `open`, in this order."""

    store: CosmosStore
    lanes: Lanes
    persistence: Persistence
    call: Call
    events: Sequence[EventMessage]
    open: list[int]
    outcomes: dict[int, EventOutcome]
    most: int = MAX_OPERATIONS

    async def write(self) -> None:
        """Send all of them, or as many as come before one that does not arrive."""
        name = self.store.own.events.name
        lane = self.lanes.of(name)
        subject = subject_of(self.events[self.open[0]].identity)
        while self.open:
            given_up = await self.persistence.insist(partial(self._step, lane), lane, subject, self.call.pause)
            if given_up is None:
                lane.worked()
            else:
                lane.postponed()
                self._stop_at(given_up)

    async def _step(self, lane: Lane) -> None:
        """Send the next ones in one request.

        Raises:
            CosmosUnavailableError: infrastructure failed; the same step may be repeated.

        """
        try:
            batch = self._next_batch()
        except DocumentRefusedError as error:
            self._refuse(Refused(None, str(error)))
            return
        container = await self.store.existing_container_named(self.store.own.events.name, " of domain events")
        try:
            etags = await lane.send(
                partial(self._send, container, batch),
                self.call.may_write,
                batch[0][1]["subject"],
                operations=len(batch),
                backlog=self.call.backlog,
            )
        except DRIVER_ERRORS as error:
            await self._after(error, container, batch)
        else:
            self._done(dict(zip((index for index, _ in batch), map(Written, etags), strict=True)))
            self.most = MAX_OPERATIONS

    def _next_batch(self) -> list[tuple[int, Document]]:
        """Return the next documents, as many as one request takes.

        Raises:
            DocumentRefusedError: the very next one is none that Cosmos DB takes.

        """
        batch: list[tuple[int, Document]] = []
        size = 0
        for index in self.open[: self.most]:
            try:
                document = document_of(self.events[index])
            except DocumentRefusedError:
                if not batch:
                    raise
                break
            size += len(json.dumps(document))
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append((index, document))
        return batch

    async def _send(self, container: ContainerProxy, batch: list[tuple[int, Document]]) -> list[str]:
        if len(batch) == 1:
            answer = await container.create_item(batch[0][1])
            headers = answer.get_response_headers()
            self.lanes.charged(headers, 1)
            return [str(headers["etag"])]
        creates = [("create", (document,)) for _, document in batch]
        return await transact(container, batch[0][1]["subject"], creates, self.lanes.charged)

    async def _after(self, error: BaseException, container: ContainerProxy, batch: list[tuple[int, Document]]) -> None:
        """Find out what a failed request leaves to do. A batch is atomic: nothing of it was written."""
        match failure_of(error):
            case Exists():
                await self._settle(container, batch)
            case Unacceptable(status, reason):
                if len(batch) == 1:
                    self._refuse(Refused(status, reason))
                else:  # those before the guilty one, if it is known, else fewer
                    self.most = guilty_index(error) or len(batch) // 2
            case Unavailable(reason, retry_after_s):
                raise CosmosUnavailableError(f"writing events: {reason}", retry_after_s) from error
            case Unanswered(reason):  # repeating it is harmless: it will be found
                raise CosmosUnavailableError(f"writing events: {reason}") from error
            case Changed() | Missing():
                raise CosmosUnavailableError("writing events: an unexpected answer") from error
            case other:
                assert_never(other)

    async def _settle(self, container: ContainerProxy, batch: list[tuple[int, Document]]) -> None:
        """Tell the events that are there already from those that are not.

        Raises:
            CosmosUnavailableError: none is there: the answer came from a replica that is behind.

        """
        ids = [document["id"] for _, document in batch]
        subject = batch[0][1]["subject"]
        found = {row["id"]: row for row in await patiently_read(lambda: find(container, subject, ids))}
        if not found:
            msg = "writing events: one exists that cannot be read yet"
            raise CosmosUnavailableError(msg)
        for position, (index, document) in enumerate(batch):
            there = found.get(document["id"])
            if there is None:  # goes out together with what follows it, up to the next one that is there
                later = (n for n, (_, other) in enumerate(batch[position:]) if other["id"] in found)
                self.most = next(later, MAX_OPERATIONS)
                return
            if not is_same_event(there, document):
                self._refuse(Refused(409, "another event of its aggregate has its id"))
                return
            self._done({index: Unchanged(str(there["_etag"]))})

    def _done(self, outcomes: dict[int, EventOutcome]) -> None:
        self.outcomes.update(outcomes)
        self.open = [index for index in self.open if index not in outcomes]

    def _refuse(self, outcome: Refused) -> None:
        """Refuse the next one."""
        event = self.events[self.open[0]]
        log.warning(
            "cosmos.event_refused",
            entity=event.identity.entity,
            document_id=event.identity.id,
            event_id=event.event_id,
            status=outcome.status,
            reason=outcome.reason,
        )
        self._stop_at(outcome)

    def _stop_at(self, outcome: Refused | Postponed) -> None:
        """Say what became of the next one; the later ones must not overtake it."""
        self.outcomes[self.open[0]] = outcome
        self.outcomes.update(dict.fromkeys(self.open[1:], Held()))
        self.open = []
