"""The recorded steps of a switch of the primary, each one transaction, so that a crash leaves a state to go on from.

    begin_switch     steady   -> draining    the primary takes no writes any more
    flip             draining -> opened      the other store takes them, in a new epoch
    finish_switch    opened   -> done        after the watermarks that open the epoch
    cancel_switch    draining -> cancelled   as before

Every step names its switch, and the database compares it within its locks: a process that slept through the end of
its switch changes nothing any more. (What is on record is read by core.postgres.switch_record.)
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.errors import ConflictError, OutcomeUnknownError, TransientError
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.failures import translated
from core.postgres.phases import PATIENCE, lock_phase, patiently
from core.postgres.switch_record import SwitchStep, read_switch, require_switch
from core.postgres.writers import check_still_known, know_the_writers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.postgres.switch_record import Switch

_SETTLING_S = 15.0
"""Postgres ends a transaction whose process is gone sooner than that (GIVE_WAY): so long its outcome is asked for."""

_DRAIN = text("SELECT crossfeed.drain(:id, CAST(:phase AS smallint), :who, :why)")
_UNDRAIN = text("SELECT crossfeed.undrain(:id)")
_OPEN = text("SELECT crossfeed.open_epoch(CAST(:phase AS smallint), :who, :why, 0, :id)")
_NOTE = text("""
    UPDATE crossfeed.switch SET facts = facts || CAST(:facts AS jsonb)
    WHERE id = :id AND step IN ('draining', 'opened') RETURNING id
""")
_END = text("""
    UPDATE crossfeed.switch SET report = CAST(:report AS jsonb), step = 'done', ended_at = clock_timestamp()
    WHERE id = :id AND step = 'opened' RETURNING id
""")
_REPORT = text("UPDATE crossfeed.switch SET report = CAST(:report AS jsonb) WHERE id = :id")


async def begin_switch(  # noqa: PLR0913 - the facts of a step
    engine: AsyncEngine,
    to: Phase,
    *,
    who: str,
    why: str,
    lease_s: float = 10.0,
    patience: float = PATIENCE,
    switch_id: UUID | None = None,
) -> Switch:
    """Drain the primary: when this returns, Postgres takes no write, or no writer of Cosmos DB renews its lease.

    Postgres' writers in flight are waited for and captured. Leases whose writers of Cosmos DB have died, and those
    that a failover may have forgotten, are waited out before anything is drained, so that they cost nobody a pause.

    Args:
        engine: from core.postgres.engine.open_engine.
        to: the phase to go to; 2 from 1, or 1 from 2.
        who: the operator, for the history.
        why: the reason, for the history.
        lease_s: the longest phase lease that writers of Cosmos DB take.
        patience: the seconds after which no new attempt is made to get the locks.
        switch_id: the id that it gets, for a caller who has to find it when it is stopped in the middle.

    Raises:
        ConflictError: that is no move of the primary, another switch is under way, a writer of Postgres does not
            end (it is named), or Postgres failed over meanwhile; nothing was changed.
        MappingError: a captured table was dropped; nothing was changed.
        TransientError: Postgres did not answer; nothing was changed.
        OutcomeUnknownError: Postgres did not answer; see `pending_switch`.

    """
    switch_id = switch_id or uuid.uuid4()
    timeline = await know_the_writers(engine, lease_s)
    begin = partial(_begin, engine, switch_id, to, who, why, timeline)
    await _step(engine, patience, switch_id, SwitchStep.DRAINING, begin)
    with translated("reading a switch"):
        async with engine.connect() as connection:
            return await require_switch(connection, switch_id, *SwitchStep)


async def note_switch(engine: AsyncEngine, switch_id: UUID, facts: Mapping[str, Any]) -> None:
    """Add to what is recorded of a switch; each key replaces what it had.

    Raises:
        ConflictError: the switch is neither draining nor opened.
        TransientError: Postgres did not answer; may be asked again.

    """
    with translated("recording a switch"):
        async with engine.begin() as connection:
            noted = await connection.execute(_NOTE, {"id": switch_id, "facts": _json(facts)})
            if noted.one_or_none() is None:
                await require_switch(connection, switch_id, SwitchStep.DRAINING, SwitchStep.OPENED)


async def cancel_switch(
    engine: AsyncEngine,
    switch_id: UUID,
    *,
    why: str,
    report: Mapping[str, Any] | None = None,
    patience: float = PATIENCE,
) -> PhaseRow:
    """Put everything back: the same primary, phase and epoch, and the triggers as before.

    Args:
        engine: from core.postgres.engine.open_engine.
        switch_id: of a switch that is draining.
        why: the reason; becomes the fact `cancelled`.
        report: how it went, for the record.
        patience: the seconds after which no new attempt is made to get the locks.

    Raises:
        ConflictError: it is not draining any more, or something does not let go of a table (it is named).
        MappingError: a captured table was dropped.
        TransientError: Postgres did not answer; it is draining as before.
        OutcomeUnknownError: Postgres did not answer; see `read_switch`.

    """
    cancel = partial(_cancel, engine, switch_id, why, report)
    return await _step(engine, patience, switch_id, SwitchStep.CANCELLED, cancel)


async def flip(
    engine: AsyncEngine,
    switch_id: UUID,
    meanwhile: Callable[[AsyncConnection, PhaseRow], Awaitable[None]],
    *,
    patience: float = PATIENCE,
) -> PhaseRow:
    """Open the other store for writes in a new epoch, in one transaction.

    Args:
        engine: from core.postgres.engine.open_engine.
        switch_id: of a switch that is draining.
        meanwhile: what to do in it when the phase is open, all tables locked; what it raises rolls everything back.
            Must bear being called again after a lock that was not to be had, and not be silent for 10 s.
        patience: the seconds after which no new attempt is made to get the locks.

    Raises:
        ConflictError: the switch is not draining any more, a writer of Cosmos DB has not ended (`wait_for_writers`),
            or something does not let go of a table (it is named); nothing was opened.
        MappingError: a captured table was dropped; nothing was opened.
        TransientError: Postgres did not answer; nothing was opened.
        OutcomeUnknownError: Postgres did not answer; see `read_switch`.

    """
    return await _step(engine, patience, switch_id, SwitchStep.OPENED, partial(_flip, engine, switch_id, meanwhile))


async def finish_switch(engine: AsyncEngine, switch_id: UUID, report: Mapping[str, Any]) -> None:
    """Record that the new epoch is open for everybody and how the switch went; may be asked again.

    Raises:
        ConflictError: the switch was not flipped.
        TransientError: Postgres did not answer; may be asked again.

    """
    facts = {"id": switch_id, "report": _json(report)}
    with translated("finishing a switch"):
        async with engine.begin() as connection:
            if (await connection.execute(_END, facts)).one_or_none() is None:
                await require_switch(connection, switch_id, SwitchStep.DONE)


async def _begin(  # noqa: PLR0913, PLR0917 - the facts of a step
    engine: AsyncEngine, switch_id: UUID, to: Phase, who: str, why: str, timeline: int
) -> PhaseRow:
    async with engine.begin() as connection:
        was = await lock_phase(connection)
        await check_still_known(connection, timeline)
        await connection.execute(_DRAIN, {"id": switch_id, "phase": int(to), "who": who, "why": why})
    return PhaseRow(was.phase, was.epoch, PhaseState.DRAINING)


async def _cancel(engine: AsyncEngine, switch_id: UUID, why: str, report: Mapping[str, Any] | None) -> PhaseRow:
    async with engine.begin() as connection:
        was = await lock_phase(connection)
        await connection.execute(_NOTE, {"id": switch_id, "facts": _json({"cancelled": why})})
        await connection.execute(_UNDRAIN, {"id": switch_id})
        if report is not None:
            await connection.execute(_REPORT, {"id": switch_id, "report": _json(report)})
    return PhaseRow(was.phase, was.epoch, PhaseState.STEADY)


async def _flip(
    engine: AsyncEngine, switch_id: UUID, meanwhile: Callable[[AsyncConnection, PhaseRow], Awaitable[None]]
) -> PhaseRow:
    async with engine.begin() as connection:
        await lock_phase(connection)
        switch = await require_switch(connection, switch_id, SwitchStep.DRAINING)
        to = {"id": switch_id, "phase": int(switch.to_phase), "who": switch.who, "why": switch.why}
        epoch = (await connection.execute(_OPEN, to)).scalar_one()
        row = PhaseRow(switch.to_phase, epoch, PhaseState.STEADY)
        await meanwhile(connection, row)
    return row


async def _step(
    engine: AsyncEngine,
    patience: float,
    switch_id: UUID,
    reached: SwitchStep,
    step: Callable[[], Coroutine[Any, Any, PhaseRow]],
) -> PhaseRow:
    """Run the transaction of a step; if its connection broke, ask whether it has taken effect."""
    what = f"bringing a switch to {reached}"
    with translated(what):
        try:
            return await patiently(engine, patience, step)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            try:
                with translated(what):
                    row = await patiently(engine, _SETTLING_S, partial(_settle, engine, switch_id, reached))
            except (ConflictError, TransientError) as unsettled:
                msg = f"{what}: Postgres did not answer, neither then nor when it was asked again"
                raise OutcomeUnknownError(msg) from unsettled
            if row is None:
                raise
            return row


async def _settle(engine: AsyncEngine, switch_id: UUID, reached: SwitchStep) -> PhaseRow | None:
    """Wait for the transaction that was lost sight of to end, and return the phase row if it was committed."""
    async with engine.begin() as connection:
        row = await lock_phase(connection)
        switch = await read_switch(connection, switch_id)
    return row if switch is not None and switch.step is reached else None


def _json(facts: Mapping[str, Any]) -> str:
    return orjson.dumps(dict(facts)).decode()
