"""One pass over one container, in small pieces that are each written down before the next begins.

    begin      what is known of another pass is forgotten; the feed ranges are listed
    documents  every document is compared (changefeed.reconcile_documents)
    tail       the ranges are read on to their ends once more: what was created meanwhile has a document, too
    rows       every row without a document is doubted (changefeed.reconcile_rows); too many are refused
    doubts     what is doubted is looked at by key, and again a lag window later (changefeed.reconcile_doubts); what is
               gone both times is removed or published again (core.postgres.absence)

A piece that is killed is done again. Nothing else is remembered outside Postgres, and a few pages in memory.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from changefeed import reconcile_rows
from changefeed.reconcile_documents import Comparison, keep, move_range, next_range, put_ranges, read_again, split_range
from changefeed.reconcile_settling import settle_doubts
from changefeed.reconcile_state import Counts, Step
from core.cosmos.feed import feed_ranges, pages, parts
from core.cosmos.sessions import check_sessions
from core.envelope import Origin
from core.errors import ConfigurationError
from core.postgres.failures import translated
from core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from changefeed.reconcile_state import Round
    from changefeed.reconcile_work import Work
    from core.cosmos.feed import FeedPage, FeedRange
    from core.phases import PhaseRow

log = structlog.get_logger()

ALWAYS_REMOVED = 10
"""So many rows may go whatever share of a small table they are."""


class Pass:
    """Works at the round of a turn, piece by piece.

    Args:
        work: the tools.

    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._compare = Comparison(work.engine, work.mappings, work.settings.reconcile_lag_s, work.clock).compare

    async def advance(self, at: Round, report: Callable[[Progress], None], is_over: Callable[[], bool]) -> float:
        """Do the next piece, and return after how many seconds there is another one to do.

        `at` is changed along; after an error it must be loaded anew.

        Args:
            at: the round, with something left to do.
            report: told how far the step is.
            is_over: asked after each page of documents.

        Raises:
            PrimaryMovedError: the phase has moved; the container has to be begun anew.
            ConflictError: there is nothing to reconcile in this phase, or not while a switch drains.
            TurnLostError: another process goes on with it.
            StoreUnavailableError: a store did not answer; load the round and go on.

        """
        match at.step:
            case Step.BEGIN:
                await self._begin(at)
            case Step.DOCUMENTS | Step.TAIL:
                return await self._documents_step(at, report, is_over)
            case Step.ROWS:
                await self._rows_step(at, report)
            case Step.DOUBTS:
                return await settle_doubts(self._work, at, report)
        return 0.0

    async def restart(self, at: Round) -> None:
        """Begin the container anew: the phase has moved, or the container is another."""
        at.step = Step.BEGIN
        await self._work.save(at)

    # -- the steps

    async def _begin(self, at: Round) -> None:
        phase = await self._work.phase()
        types = self._work.mappings.in_container(at.todo[0])
        self._work.caught_up.clear()
        if phase.primary is Origin.COSMOS:
            await check_sessions(self._work.store)
        container = await self._work.store.existing_container_named(at.todo[0])
        ranges = await feed_ranges(container)
        at.epoch, at.step, at.counts = phase.epoch, Step.DOCUMENTS, Counts()

        async def write(connection: AsyncConnection) -> None:
            await self._work.turn.clear(connection)
            await put_ranges(connection, ranges)
            about = await reconcile_rows.rows_about(connection, types)
            at.place = {"rows": about, "table": 0, "block": 0, "looked": 0, "settled": 0}

        await self._work.save(at, write)

    async def _documents_step(
        self, at: Round, report: Callable[[Progress], None], is_over: Callable[[], bool]
    ) -> float:
        """Read pages of one range, until its end or until a rest is due."""
        found = await next_range(self._work.engine)
        if found is None:
            if at.step is Step.DOCUMENTS:
                at.step = Step.TAIL
                await self._work.save(at, read_again)
            else:
                at.step = Step.ROWS
                await self._work.save(at)
            return 0.0
        feed_range, continuation = found
        phase = await self._work.phase(at)
        container = self._work.store.container_named(at.todo[0])
        source = pages(container, feed_range, continuation, self._work.settings.reconcile_page_size)
        async with aclosing(source):
            while True:
                try:
                    page = await anext(source)
                except ConfigurationError as error:
                    if continuation is None:
                        raise
                    log.warning("reconcile.restarted", container=at.todo[0], why=str(error))
                    await self.restart(at)
                    break
                is_whole = await self._page(at, feed_range, page, phase)
                if not (page.documents and is_whole):
                    break
                about = max(at.place["rows"], at.counts.documents)
                report(Progress(f"documents of {at.todo[0]}", at.counts.documents, about))
                rest_s = self._work.throttle.rest_s()
                if is_over() or rest_s > self._work.turn.lease_s / 4:
                    return rest_s
                await asyncio.sleep(rest_s)
        return 0.0

    async def _page(self, at: Round, feed_range: FeedRange, page: FeedPage, phase: PhaseRow) -> bool:
        """Deal with a page; return whether its range is still one."""
        split = parts(page.continuation)
        self._work.throttle.spend(page.charge)
        compared = await self._compare(at.todo[0], page.documents, phase)
        compared.counts.applied = len(compared.differing)
        compared.counts.doubted = len(compared.old)
        await self._work.apply(at, compared.differing, phase)
        at.counts.add(compared.counts)

        async def write(connection: AsyncConnection) -> None:
            await keep(connection, compared)
            if len(split) > 1:
                await split_range(connection, feed_range.key, split)
            else:
                await move_range(connection, feed_range.key, page.continuation, passed=not page.documents)

        await self._work.save(at, write)
        return len(split) == 1

    async def _rows_step(self, at: Round, report: Callable[[Progress], None]) -> None:
        """Doubt the rows of one bucket; after the last one, refuse what would be too much."""
        types = self._work.mappings.in_container(at.todo[0])
        place = at.place
        with translated("reading rows"):
            async with self._work.engine.connect() as connection:
                tables = [(one, *leaf) for one in types for leaf in await reconcile_rows.leaves_of(connection, one)]
        if place["table"] >= len(tables):
            await self._rows_done(at)
            return
        mapping, leaf, blocks = tables[place["table"]]

        async def write(connection: AsyncConnection) -> None:
            if place["block"] < blocks:
                bucket = await reconcile_rows.doubt_rows(connection, mapping, leaf, place["block"])
                at.counts.add(Counts(rows=bucket.rows, doubted=bucket.doubted))
            place["block"] += reconcile_rows.BLOCKS
            if place["block"] >= blocks:
                place["table"], place["block"] = place["table"] + 1, 0

        await self._work.save(at, write)
        report(Progress(f"rows of {at.todo[0]}", at.counts.rows, max(place["rows"], at.counts.rows)))

    async def _rows_done(self, at: Round) -> None:
        counts = at.counts
        is_much = counts.doubted > max(ALWAYS_REMOVED, self._work.settings.reconcile_max_removed_share * counts.rows)
        phase = await self._work.phase(at)
        if is_much and phase.primary is Origin.COSMOS:
            log.error("reconcile.refused", container=at.todo[0], without_document=counts.doubted, rows=counts.rows)
            await self._work.finish(at, refused=True)
            return
        at.step = Step.DOUBTS
        await self._work.save(at)
