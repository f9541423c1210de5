"""Gives every document of a container to the guarded write to Postgres, feed range by feed range.

The change feed shows every document that is not written meanwhile exactly once, follows splits, and its position can be
saved, in the very transaction that writes the page; what is written meanwhile moves to its end.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import FeedRange, feed_ranges, pages, parts
from core.cosmos.querying import answers
from core.cosmos.sql import Statement
from core.envelope import Origin
from core.errors import ConfigurationError, ConflictError
from core.migration.backfill_state import Counts, Part
from core.phases import Phase
from core.postgres.backfilled import backfill_documents
from core.postgres.failures import translated
from core.postgres.guarded import apply_documents
from core.postgres.mirror_parking import MirrorPatience
from core.postgres.opening import read_barrier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.feed import FeedPage
    from core.mappings import Mappings
    from core.migration.backfill_state import Run, Turn
    from core.pace import Pace
    from core.phases import PhaseRow
    from core.postgres.mirrored_batch import Outcome
    from core.postgres.opening import Barrier
    from core.settings import Settings
    from core.throttle import Throttle

SKEW_S: Final = 30.0
"""How far the clocks of the two stores may be apart, in seconds."""

_COUNT: Final = Statement("SELECT VALUE COUNT(1) FROM c", [], exact=True, partition=None)


class ToPostgres:
    """Fills Postgres. Sources are containers.

    While Cosmos DB is the primary, documents are applied as the mirror applies them. While Postgres is and reads fall
    back to Cosmos DB, only what Postgres holds nothing of and Cosmos DB was entitled to take (see
    core.postgres.backfilled); after a step that found every document's row there is no such thing, and nothing is read.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        settings: the page size, and how often and how soon what is parked is tried again.
        turn: the right to do it.
        throttle: told what Cosmos DB charges; says how long to rest.
        pace: told how long Postgres takes; says how much to give it.

    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is wired from
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        settings: Settings,
        turn: Turn,
        throttle: Throttle,
        pace: Pace,
    ) -> None:
        self._engine = engine
        self._store = store
        self._mappings = mappings
        self._page_size = settings.backfill_page_size
        self._patience = MirrorPatience.of(settings)
        self._turn = turn
        self._throttle = throttle
        self._pace = pace
        self._documents = CosmosDocuments(store, mappings, throttle.charged)

    def sources(self, entities: Sequence[str] | None) -> list[str]:
        """Return the containers of these entity types, None for all."""
        if entities is None:
            return list(self._mappings.containers)
        return list(dict.fromkeys(self._mappings.named(entity).container for entity in entities))

    def check(self, phase: PhaseRow) -> None:
        """Refuse the phase in which Cosmos DB is not looked at.

        Raises:
            ConflictError: it is the one.

        """
        if phase.phase is Phase.POSTGRES_ONLY:
            msg = f"in phase {phase.phase.label} Cosmos DB holds nothing that Postgres should have"
            raise ConflictError(msg)

    async def parts(self, source: str) -> list[Part]:
        """Return the feed ranges of a container."""
        container = await self._store.existing_container_named(source)
        return [Part(source, one.key, dict(one.token)) for one in await feed_ranges(container)]

    async def total(self, sources: Sequence[str]) -> int:
        """Return how many documents there are."""
        total = 0
        for source in sources:
            async with aclosing(answers(await self._store.existing_container_named(source), _COUNT)) as counts:
                total += sum([int(count) async for count in counts])
        return total

    async def piece(self, part: Part, phase: PhaseRow, run: Run) -> float:
        """Read and apply the next page of a feed range; return how long to rest, in seconds.

        A range is done at its end, or where everything was written after the backfill had begun: that is the mirror's,
        and writers who go on would keep the end away for ever.
        """
        barrier = (await self._barrier(phase)).get(part.source)
        if phase.primary is Origin.POSTGRES and barrier is None:
            await self._pass_by(part, run.counts)
            return 0.0
        page = await self._page(part)
        self._throttle.spend(page.charge)
        is_last = not page.documents or int(page.documents[-1]["_ts"]) > run.begun_at + SKEW_S
        of_page = Counts()
        left = page.documents
        while True:
            some, left = left[: self._pace.page_size], left[self._pace.page_size :]
            with self._pace.measuring(), translated(f"backfilling documents of {part.source!r}"):
                async with self._engine.begin() as connection:
                    if some:
                        outcome = await self._apply(connection, part.source, some, phase, barrier)
                        of_page.add(_counted(outcome, len(some)))
                    if left:
                        await self._turn.keep(connection)
                    else:
                        await self._save(connection, part, page, _sum(run.counts, of_page), done=is_last)
            if not left:
                break
        run.counts.add(of_page)
        return self._throttle.rest_s() + self._pace.pause_s

    async def _barrier(self, phase: PhaseRow) -> dict[str, Barrier]:
        if phase.primary is Origin.COSMOS:
            return {}
        with translated("reading the barrier"):
            async with self._engine.connect() as connection:
                return await read_barrier(connection)

    async def _page(self, part: Part) -> FeedPage:
        assert part.range is not None
        container = self._store.container_named(part.source)
        continuation = None if part.place is None else str(part.place["continuation"])
        source = pages(container, FeedRange(part.name, part.range), continuation, self._page_size)
        async with aclosing(source):
            try:
                return await anext(source)
            except ConfigurationError as error:
                msg = (
                    f"{part.source}: was the container created anew? Begin anew: crossfeed backfill --restart ({error})"
                )
                raise ConfigurationError(msg) from error

    async def _apply(
        self,
        connection: AsyncConnection,
        container: str,
        documents: Sequence[Document],
        phase: PhaseRow,
        barrier: Barrier | None,
    ) -> Outcome:
        if phase.primary is Origin.POSTGRES:
            return await backfill_documents(connection, self._mappings, container, documents, phase, barrier=barrier)
        return await apply_documents(
            connection, self._mappings, container, documents, phase, self._documents, patience=self._patience
        )

    async def _pass_by(self, part: Part, counts: Counts) -> None:
        with translated("moving the place of the backfill"):
            async with self._engine.begin() as connection:
                await self._turn.move(connection, part, part.place, counts, done=True)

    async def _save(
        self, connection: AsyncConnection, part: Part, page: FeedPage, counts: Counts, *, done: bool
    ) -> None:
        """Write down the place after a page, once the whole of it is applied."""
        split = parts(page.continuation)
        if len(split) > 1:
            into = [Part(part.source, one.range.key, dict(one.range.token), _place(one.continuation)) for one in split]
            await self._turn.split(connection, part, into, counts)
        else:
            await self._turn.move(connection, part, _place(page.continuation), counts, done=done)


def _place(continuation: str | None) -> dict[str, str] | None:
    return None if continuation is None else {"continuation": continuation}


def _counted(outcome: Outcome, documents: int) -> Counts:
    aside = outcome.dead_lettered + outcome.quarantined
    return Counts(documents, outcome.applied + outcome.buried + outcome.taken, aside, outcome.parked)


def _sum(counts: Counts, more: Counts) -> Counts:
    total = replace(counts)
    total.add(more)
    return total
