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
  for as long as it takes to flip and delete still resurrects. The caller's `check`, its lease's deadline, is asked
  last before every write and bounds that time.

An ETag taken by the row is no short cut: the row may still be the very state that was taken, and this an echo.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from core.cosmos.batches import BatchWriter
from core.cosmos.calls import Call, Job
from core.cosmos.documents import CosmosDocuments
from core.cosmos.examine import Examiner
from core.cosmos.gathering import all_ended
from core.cosmos.lanes import Lanes
from core.cosmos.persistence import PATIENCE_S, Persistence
from core.cosmos.publish import Outcome, Postponed, Publish, Quarantine, Refused, Superseded, Unchanged, Written
from core.cosmos.singles import SingleWriter
from core.cosmos.views import Views

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.cosmos.client import CosmosStore
    from core.cosmos.lanes import Lane, WriterState
    from core.identity import Identity
    from core.mappings import Mappings

__all__ = [
    "GuardedWriter",
    "Outcome",
    "Postponed",
    "Publish",
    "Quarantine",
    "Refused",
    "Superseded",
    "Unchanged",
    "Written",
]

REMEMBERED = 100_000
"""How many ETags a writer remembers."""


def _never_ends() -> None:
    """Let a caller without a lease write whenever it wants."""


class GuardedWriter:
    """Writes states to Cosmos DB, never an older one over a newer one. Safe to share between tasks.

    Args:
        store: the opened database.
        mappings: of everything that will be written.
        quarantine: keeps what Postgres never took, and knows whether Postgres still is primary.
        concurrency: how many requests are under way at the same time.
        remember: how many ETags are remembered.
        ru_per_second: how many request units a second may be used, None for as many as Cosmos DB grants.
        patience_s: how long infrastructure may fail for one document, in seconds, before it is given up for now; 0:
            nothing is repeated and nothing postponed.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        store: CosmosStore,
        mappings: Mappings,
        quarantine: Quarantine,
        concurrency: int,
        *,
        remember: int = REMEMBERED,
        ru_per_second: float | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._mappings = mappings
        self._lanes = Lanes(concurrency, ru_per_second)
        documents = CosmosDocuments(store, mappings, self._lanes.charged)
        self._views = Views(remember)
        self._persistence = Persistence(self._lanes, patience_s)
        self._singles = SingleWriter(documents, self._views, Examiner(self._views, quarantine, mappings), quarantine)
        self._batches = BatchWriter(
            documents, self._views, self._singles, quarantine, self._persistence, self._write_alone
        )

    async def write(
        self,
        items: Sequence[Publish],
        *,
        check: Callable[[], None] = _never_ends,
        on_outcome: Callable[[Publish, Outcome], None] | None = None,
        backlog: bool = False,
    ) -> list[Outcome]:
        """Write states, concurrently by identity; the outcomes are in the order of the items.

        May be repeated with the same items at any time, also after a crash. Of several states of one identity the
        newest is written and the others are superseded.

        Args:
            items: what to write.
            check: called just before every request that writes; nothing is sent after it has raised.
            on_outcome: told of each outcome as soon as it is known.
            backlog: whether these yield to what others write at the same time.

        Raises:
            CosmosUnavailableError: Cosmos DB does nothing any more for a whole container, with `retry_after_s` where it
                asked to wait; what was under way has been finished, the rest was not sent.
            PrimaryMovedError: a state is of an epoch that is over; load it again.
            HistoryLostError: Postgres has lost commits that were sent before.
            TransientError: the quarantine did not answer.
            CrossfeedError: whatever `check` raises.

        """
        call = Call(check, on_outcome, backlog)
        jobs = [Job(item) for item in items]
        await all_ended(
            call.or_stop(self._write_partition(lane, states, call)) for lane, states in self._partitions(jobs)
        )
        return [job.outcome for job in jobs if job.outcome is not None]

    @property
    def lanes(self) -> Lanes:
        """Where its requests go; who sends others to the same account goes there too, and shares turns and budget."""
        return self._lanes

    def state(self) -> WriterState:
        """Return how Cosmos DB is doing, as far as this writer sees it; asks nothing."""
        return self._lanes.state()

    def _partitions(self, jobs: list[Job]) -> list[tuple[Lane, list[list[Job]]]]:
        """Sort jobs by logical partition and within it by identity, the newest state of each first."""
        partitions: dict[tuple[Lane, str], dict[Identity, list[Job]]] = {}
        for job in jobs:
            identity = job.item.identity
            lane = self._lanes.of(self._mappings.named(identity.entity).container)
            partitions.setdefault((lane, identity.partition_key), {}).setdefault(identity, []).append(job)
        for states in partitions.values():
            for of_identity in states.values():
                of_identity.sort(key=lambda job: job.item.stamp, reverse=True)
        found = [(lane, list(states.values())) for (lane, _), states in partitions.items()]
        if not all(lane.breaker.is_closed for lane, _ in found):
            self._lanes.random.shuffle(found)  # whoever probes a container should not always be the same
        return found

    async def _write_partition(self, lane: Lane, states: list[list[Job]], call: Call) -> None:
        newest = [of_identity[0] for of_identity in states]
        if len(newest) > 1:
            await self._batches.write(newest, call, lane)
        else:
            await self._write_alone(newest[0], call, lane)
        for of_identity in states:
            for job in of_identity[1:]:
                await self._write_alone(job, call, lane)

    async def _write_alone(self, job: Job, call: Call, lane: Lane, *, look_first: bool = False) -> None:
        attempt = partial(self._singles.write, job.item, call, lane, look_first=look_first)
        outcome = await self._persistence.insist(attempt, lane, job.item.identity.partition_key, call.pause)
        if isinstance(outcome, Postponed):
            lane.postponed()
        else:
            lane.worked()
        call.decide(job, outcome)
