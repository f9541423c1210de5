"""Ends what a reconcile pass doubts: looks at it by key, twice, and removes or publishes again what is confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from changefeed import reconcile_doubts
from changefeed.noticed import vanished
from changefeed.reconcile_state import Counts
from core.envelope import Origin
from core.errors import AlreadyExistsError, DocumentRefusedError
from core.postgres.absence import settle_missed
from core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from changefeed.reconcile_doubts import Doubt
    from changefeed.reconcile_state import Round
    from changefeed.reconcile_work import Work
    from core.phases import PhaseRow

log = structlog.get_logger()


async def settle_doubts(work: Work, at: Round, report: Callable[[Progress], None]) -> float:
    """Look at a chunk for the first or for the second time; return how long to wait for the next."""
    lag_s = work.settings.reconcile_lag_s
    if unread := await reconcile_doubts.unread_doubts(work.engine):
        await _first_look(work, at, unread)
        report(Progress(f"first look by key in {at.todo[0]}", at.place["looked"], at.counts.doubted))
    elif due := await reconcile_doubts.due_doubts(work.engine, lag_s):
        await _second_look(work, at, due)
    else:
        wait_s = await reconcile_doubts.due_in(work.engine, lag_s)
        if wait_s is not None:
            return wait_s
        await work.finish(at, refused=False)
        return 0.0
    report(Progress(f"settled in {at.todo[0]}", at.place["settled"], at.counts.doubted))
    return work.throttle.rest_s()


async def _first_look(work: Work, at: Round, doubts: Sequence[Doubt]) -> None:
    phase = await work.phase(at)
    gone, others = await _look(work, at, doubts, phase)
    at.place["looked"] += len(doubts)
    at.place["settled"] += len(others)

    async def write(connection: AsyncConnection) -> None:
        await reconcile_doubts.mark_read(connection, gone)
        await reconcile_doubts.drop(connection, others)

    await work.save(at, write)


async def _second_look(work: Work, at: Round, doubts: Sequence[Doubt]) -> None:
    phase = await work.phase(at)
    gone, others = await _look(work, at, doubts, phase)
    at.place["settled"] += len(doubts)
    await work.save(at, lambda connection: reconcile_doubts.drop(connection, others))
    await _settle(work, at, gone, phase)


async def _look(
    work: Work, at: Round, doubts: Sequence[Doubt], phase: PhaseRow
) -> tuple[Sequence[Doubt], Sequence[Doubt]]:
    """Return what is gone, or as old as it was, and the others; what was found instead is given to the mirror."""
    if phase.primary is Origin.COSMOS:
        await work.catch_up(at)
    sight = await reconcile_doubts.look(work.documents, doubts, work.clock())
    await work.apply(at, sight.found, phase)
    if not at.dry:  # readers need not wait until the second look believes it: what is not there is loaded anew
        await work.notices.tell(vanished([doubt.missed.identity for doubt in sight.gone], phase))
    at.counts.add(Counts(found=sight.present, behind=sight.behind, kept=sight.unaskable))
    return sight.gone, sight.others


async def _settle(work: Work, at: Round, gone: Sequence[Doubt], phase: PhaseRow) -> None:
    """Remove or publish rows; those that the application's own constraints hold do not hold up the others."""
    if not gone:
        return
    missed = [doubt.missed for doubt in gone]

    async def write(connection: AsyncConnection) -> None:
        if at.dry:
            is_removal = phase.primary is Origin.COSMOS
            at.counts.add(Counts(removed=len(missed)) if is_removal else Counts(healed=len(missed)))
        else:
            done = await settle_missed(connection, work.mappings, missed, phase, work.clock())
            at.counts.add(Counts(removed=done.removed, healed=done.healed, kept=done.kept))
        await reconcile_doubts.drop(connection, gone)

    try:
        await work.save(at, write)
    except (DocumentRefusedError, AlreadyExistsError) as error:
        if len(gone) == 1:
            identity = missed[0].identity
            log.warning("reconcile.kept", entity=identity.entity, document_id=identity.id, reason=str(error))
            at.counts.kept += 1
            await work.save(at, lambda connection: reconcile_doubts.drop(connection, gone))
            return
        half = len(gone) // 2
        await _settle(work, at, gone[:half], phase)
        await _settle(work, at, gone[half:], phase)
