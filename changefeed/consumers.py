"""Hands domain events to the handlers that are registered for them, each once and an aggregate's in their order.

    handlers = settings.load_consumers()          # CROSSFEED_CONSUMERS=package.module:attribute
    consumers = Consumers(engine, handlers, settings)
    begun = await consumers.begin()
    await consumers.apply(container, documents, begun, acknowledge)     a page of the container of events
    await consumers.idle(begun)                                         now and then: what failed is tried again

What a page does is one transaction: the handlers' own work through the connection that they get, the notes in the
inbox, what has to be parked, and what acknowledges the page. A crash undoes all of it and the page comes again; a page
that comes again, an old one, and the same events by another process at the same time find the notes (changefeed.inbox).

A handler that fails undoes its own work alone; the event is parked, and with it the later ones of its aggregate for
that handler (changefeed.inbox_chains). A handler that must be cancelled, or ends the transaction or its connection,
spoils the page: it is applied again without that call, so other handlers' work outside Postgres may happen twice.
Events of types without a handler are counted and passed over.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from changefeed.attempts import Attempts, insisting
from changefeed.inbox import (
    PURGED_AT_ONCE,
    Arrival,
    Verdict,
    lock_subjects,
    purge,
    read_memory,
    remember,
    starts_of,
    try_lock_subject,
)
from changefeed.inbox_chains import (
    HELD,
    Dead,
    Parked,
    Patience,
    Waiting,
    bury,
    due_chains,
    fail_again,
    leave,
    park,
    read_chain,
)
from core.envelope import is_internal
from core.handlers import Start
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from changefeed.attempts import Caution
    from changefeed.inbox import Chain, Key
    from changefeed.ports import Acknowledge
    from core.content import Document
    from core.handlers import Handlers
    from core.settings import Settings

CHAINS_AT_ONCE = 20
"""How many chains one call of `idle` tries again, each in a transaction of its own."""
PURGE_EVERY_S = 60.0
SLACK_S = 10.0
"""For how much longer than a handler may take its transaction may sit idle, in seconds."""

DOUBTFUL = (
    "it is older than what is remembered of its aggregate's events, but its document is newer: it may have been handled"
    " before. Replay it if it was not, else discard it"
)

_COUNTED = ("handled", "repeated", "unknown", "before_start", "held", "parked", "dead_lettered", "doubtful")


class Consumers:
    """Applies the change feed of the container of events (changefeed.ports.Applier). Many ranges may share it.

    Args:
        engine: from core.postgres.engine.open_engine; one connection per call is in use.
        handlers: what is called.
        settings: attempts, waits, the time a handler may take, and for how long events are remembered.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        handlers: Handlers,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._handlers = handlers
        self._settings = settings
        self._clock = clock
        self._patience = Patience.of(settings)
        self._attempts = Attempts(handlers, settings.consumer_timeout_s, self._patience)
        self._idle_s = settings.consumer_timeout_s + SLACK_S
        self._since: Mapping[str, int | None] | None = None
        self._purge_at = 0.0
        self._counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))

    @property
    def feed_name(self) -> str:
        """The name of the leases and checkpoints of their feed; see core.handlers.Handlers.feed_name."""
        return self._handlers.feed_name

    async def begin(self) -> Mapping[str, int | None]:
        """Record the handlers that are new; return since when each takes events, in seconds since 1970 (None: all).

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        if self._since is None:
            from_now = {handler.name: handler.start is Start.NOW for handler in self._handlers}
            with translated("recording the handlers of events"):
                async with self._engine.begin() as connection:
                    self._since = await starts_of(connection, from_now)
        return self._since

    async def apply(
        self,
        container: str,
        documents: Sequence[Document],
        begun: Mapping[str, int | None],
        acknowledge: Acknowledge,
    ) -> None:
        """Handle one page: all of it in one transaction with what acknowledges it, or nothing and an error.

        May be repeated with the same documents at any time. An event that is itself at fault is parked or becomes a
        dead letter in the same transaction, so only infrastructure and conflicts raise.

        Args:
            container: the container of events, for messages.
            documents: with their system properties, in feed order.
            begun: what `begin` returned.
            acknowledge: made durable with the page, as the last thing.

        Raises:
            ConcurrencyError: a deadlock was broken, or somebody else has acknowledged; repeat.
            StoreUnavailableError: Postgres; repeat.

        """

        async def step(caution: Caution) -> Counter[str]:
            async with self._engine.begin() as connection:
                return await self._handle(connection, documents, begun, caution, acknowledge)

        with translated(f"handling {len(documents)} documents of {container!r}"):
            self._counts.update(await insisting(step))

    async def idle(self, begun: Mapping[str, int | None]) -> bool:
        """Try again what is due, and forget what is old; return whether more may be due at once.

        Several processes may do so at the same time.

        Raises:
            StoreUnavailableError: Postgres did not answer; what was tried before stays done.

        """
        names = [handler.name for handler in self._handlers]
        with translated("trying again what handlers failed at"):
            async with self._engine.begin() as connection:
                due = await due_chains(connection, names, CHAINS_AT_ONCE, self._patience)
            progress = False
            for chain in due:
                counts = await insisting(partial(self._retry, chain))
                self._counts.update(counts)
                progress |= counts.total() > 0
        return await self._purge() or progress

    def counts(self) -> Mapping[str, int]:
        """Return how often each thing happened to an event at a handler since the process began."""
        return dict(self._counts)

    async def _handle(
        self,
        connection: AsyncConnection,
        documents: Sequence[Document],
        since: Mapping[str, int | None],
        caution: Caution,
        acknowledge: Acknowledge,
    ) -> Counter[str]:
        counts: Counter[str] = Counter()
        arrivals: list[Arrival] = []
        for document in documents:
            if is_internal(document):
                continue
            wanted = self._handlers.of(document.get("type"))
            counts["unknown"] += not wanted
            arrivals += [Arrival.of(document, handler.name) for handler in wanted]
        await lock_subjects(connection, (arrival.subject for arrival in arrivals), self._idle_s)
        memories = await read_memory(connection, arrivals)
        page = _Page({arrival.chain for arrival, memory in zip(arrivals, memories, strict=True) if memory.held})
        for arrival, memory in zip(arrivals, memories, strict=True):
            verdict = Verdict.KNOWN if arrival.key in page.met else memory.verdict(arrival, since[arrival.handler])
            page.met.add(arrival.key)
            match verdict:
                case Verdict.KNOWN:
                    counts["repeated"] += 1
                case Verdict.BEFORE_START:
                    counts["before_start"] += 1
                case Verdict.DOUBTFUL:
                    counts["doubtful"] += 1
                    page.dead.append(Dead(arrival, DOUBTFUL, 0))
                case Verdict.NEW if arrival.chain in page.held:
                    counts["held"] += 1
                    page.waiting.append(Waiting(arrival, HELD, None))
                case Verdict.NEW:
                    outcome = await self._attempts.make(connection, arrival, 0, caution)
                    counts[page.add(arrival, outcome)] += 1
                case _:
                    assert_never(verdict)
        await park(connection, page.waiting, self._patience)
        await bury(connection, page.dead)
        await remember(connection, [*page.handled, *(item.arrival for item in page.dead)])
        await acknowledge(connection)
        return counts

    async def _retry(self, chain: Chain, caution: Caution) -> Counter[str]:
        """Try a chain again from its head on, as far as it goes."""
        counts: Counter[str] = Counter()
        async with self._engine.begin() as connection:
            if not await try_lock_subject(connection, chain[1], self._idle_s):
                return counts
            parked = await read_chain(connection, chain, self._patience)
            gone: list[Parked] = []
            for item in parked:
                # Somebody else was here, or a replayed letter has taken this one's place as the head.
                if not item.is_due:
                    break
                outcome = await self._attempts.make(connection, item.arrival, item.attempts, caution)
                if isinstance(outcome, Waiting):
                    await fail_again(connection, item.place, outcome, self._patience)
                    break
                gone.append(item)
                if outcome is not None:
                    await bury(connection, [replace(outcome, place=item.place, first_at=item.first_at)])
                counts["handled" if outcome is None else "dead_lettered"] += 1
            await leave(connection, chain, [item.place for item in gone])
            await remember(connection, [item.arrival for item in gone])
        return counts

    async def _purge(self) -> bool:
        if self._clock() < self._purge_at:
            return False
        with translated("forgetting old events"):
            async with self._engine.begin() as connection:
                purged = await purge(connection, self._settings.consumer_keep_s)
        more = purged == PURGED_AT_ONCE
        self._purge_at = self._clock() + (0 if more else PURGE_EVERY_S)
        return more


@dataclass(slots=True)
class _Page:
    """What becomes of a page: the chains in which its events wait, those it has met, and what is to be written."""

    held: set[Chain]
    met: set[Key] = field(default_factory=set)
    handled: list[Arrival] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)

    def add(self, arrival: Arrival, outcome: Waiting | Dead | None) -> str:
        """Note what became of an event that was handed over; return what to count."""
        match outcome:
            case None:
                self.handled.append(arrival)
                return "handled"
            case Waiting():
                self.waiting.append(outcome)
                self.held.add(arrival.chain)
                return "parked"
            case Dead():
                self.dead.append(outcome)
                return "dead_lettered"
            case _:
                assert_never(outcome)
