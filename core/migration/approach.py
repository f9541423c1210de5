"""Goes from the drain to the flip: the follower gets everything, both stores are compared, the other one opens.

Each wait is for ever, and the caller sets the limit. Nothing here has to be undone but the drain.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from core.errors import ConflictError
from core.migration.barrier import documents_arrived, messages_arrived, patiently
from core.migration.validation import verify
from core.phases import PhaseRow, PhaseState
from core.postgres.engine import fetch
from core.postgres.failures import translated
from core.postgres.switching import flip, note_switch
from core.postgres.writers import wait_for_writers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.migration.course import Course
    from core.postgres.switch_record import Switch
    from core.postgres.writers import Writer

log = structlog.get_logger()

SETTLE_S: Final = 2.0
"""How long a difference may last at rest, in seconds: a write that was sent before the drain may land this late."""
NAMED: Final = 5
"""How many differences are named."""

_AGAIN_S: Final = 0.1
_LETTERS: Final = "SELECT count(*) FROM crossfeed.dead_letter WHERE direction = %(direction)s"
_PARKED: Final = "SELECT count(*) FROM crossfeed.mirror_parked"


class CameInError(ConflictError):
    """Something has come in between the verification and the flip, which was rolled back."""


class Approach:
    """The way of one switch from its drain to its flip.

    Args:
        course: of the switch.
        switch: as it is recorded, draining.

    """

    def __init__(self, course: Course, switch: Switch) -> None:
        self._course = course
        self._switch = switch
        self._parts = course.parts
        self._engine = course.parts.engine

    async def arrive(self) -> None:
        """Wait until nobody writes and the follower holds everything.

        Raises:
            ConflictError: the switch is not draining any more, or writers of Cosmos DB do not end (they are named).
            TransientError: Postgres did not answer.

        """
        course, parts, switch = self._course, self._parts, self._switch
        if course.is_to_postgres:
            course.at("writers")
            patience = course.options.pause_budget_s
            await wait_for_writers(self._engine, switch.id, patience=patience, on_wait=self._waits_for)
            course.passed("every phase lease was handed back, or has run out")
            course.at("barrier")
            barrier = await documents_arrived(
                self._engine, parts.store, parts.mappings, switch.from_epoch, course.waits
            )
            await note_switch(self._engine, switch.id, {"barrier": barrier})
            course.passed("a watermark of every feed range has come out of the mirror")
        else:
            course.at("barrier")
            await messages_arrived(self._engine, parts.ports.log, course.waits)
            course.passed("every slot of the log is past the drain")

    async def check_letters(self) -> None:
        """See that no more is lost to dead letters than the operator accepts.

        Raises:
            ConflictError: there are more.
            TransientError: Postgres did not answer.

        """
        self._course.at("dead letters")
        with translated("counting dead letters"):
            async with self._engine.connect() as connection:
                await self._accept_letters(connection)
        self._course.passed(f"{self._course.report.dead_letters}, {self._course.options.accept_dead_letters} accepted")

    async def verify(self, since: datetime | None, *, were_equal: bool) -> None:
        """Compare what was changed since the live stores were compared; None: everything.

        A write that was sent before the drain may still land meanwhile, so a difference may last for SETTLE_S.

        Args:
            since: by the clock of Postgres.
            were_equal: whether that comparison found no difference at all.

        Raises:
            ConflictError: both stores differ, by name.
            TransientError: Postgres did not answer.

        """
        course, parts, switch = self._course, self._parts, self._switch
        course.at("verification")
        began = asyncio.get_running_loop().time()
        row = PhaseRow(switch.from_phase, switch.from_epoch, PhaseState.DRAINING)
        while True:
            compare = partial(verify, self._engine, parts.store, parts.mappings, row, since=since)
            parity = await patiently(compare, course.waits)
            course.report.parity = parity.facts(with_keys=False)
            if parity.unaccounted == 0:
                break
            found = "; ".join(
                f"{one.identity.entity} {one.identity.id!r} is {one.kind.value}" for one in parity.differences[:NAMED]
            )
            course.waits(f"{parity.unaccounted} differences ({found})")
            if asyncio.get_running_loop().time() - began > SETTLE_S:
                msg = "both stores differ though nobody writes"
                raise ConflictError(msg)
            await asyncio.sleep(_AGAIN_S)
        if course.is_to_postgres:
            is_complete = parity.is_equal and (since is None or were_equal)
            await note_switch(self._engine, switch.id, {"complete": is_complete})
        course.passed("both stores hold the same" + ("" if parity.is_equal else ", but for dead letters"))

    async def flip(self) -> bool:
        """Open the other store.

        Returns:
            False: something has come in since it was looked, and nothing was opened; wait for it, and try again.

        Raises:
            ConflictError: the switch is not draining any more, or something does not let go of a table.
            OutcomeUnknownError: Postgres did not answer.
            TransientError: Postgres did not answer; nothing was opened.

        """
        course = self._course
        course.at("flip")
        try:
            row = await flip(self._engine, self._switch.id, self._look_again, patience=course.options.pause_budget_s)
        except CameInError as error:
            log.info("switch.not_yet", switch=str(self._switch.id), why=str(error))
            return False
        log.info("switch.flipped", switch=str(self._switch.id), phase=row.phase.label, epoch=row.epoch)
        course.passed(f"{row.phase.label} in epoch {row.epoch}")
        return True

    async def _look_again(self, connection: AsyncConnection, _: PhaseRow) -> None:
        """See, within the flip's locks, that nothing has come in: the mirror heals, relay and mirror park."""
        if self._course.is_to_postgres:
            [(parked,)] = await fetch(connection, _PARKED, {})
            found = f"{parked} documents are parked" if parked else ""
        else:
            behind = await self._parts.ports.log.unsent(connection)
            found = f"slots {behind.slots} have messages, {behind.parked} are parked" if behind else ""
        if found:
            msg = f"something came in between the verification and the flip: {found}"
            raise CameInError(msg)
        await self._accept_letters(connection)

    async def _accept_letters(self, connection: AsyncConnection) -> None:
        direction = "to_postgres" if self._course.is_to_postgres else "to_cosmos"
        [(count,)] = await fetch(connection, _LETTERS, {"direction": direction})
        accepted = self._course.options.accept_dead_letters
        self._course.report.dead_letters = count
        if count > accepted:
            msg = f"{count} dead letters {direction}, {accepted} accepted"
            raise ConflictError(msg)

    def _waits_for(self, writers: Sequence[Writer]) -> None:
        self._course.waits(f"writers of Cosmos DB: {', '.join(writer.name for writer in writers)}")
