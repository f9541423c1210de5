"""Notices that Postgres lost commits that were sent already: restored, rolled back, or promoted without its last ones.

Cosmos DB remembers what Postgres may forget: before a cursor moves, its relay's marker names the newest rows it sent
(`core.cosmos.markers`). When slots are claimed and after every reconnect, all of these rows must still be in the log,
under the same number, transaction and time (a cluster that went back gives numbers and transactions out again), or
have been dropped with their partition. Losses are a tail of the WAL, so whatever was committed before a marked row is
there if that is; of what was committed after the newest marked row and sent before the next, nobody would know.

Three things more are held against the charter in the control container, which any relay moves on and none moves back:

- the history: a re-sync opens another, and whoever still has the one before must stop;
- the epoch: a database that was restored to before a switch of the primary recorded a smaller one;
- cluster and timeline: another system identifier means that cursors (transaction ids) are worth nothing, an earlier
  timeline that this is a former primary. A later timeline with all marked rows is a failover that lost nothing.

Cosmos DB is read first, Postgres afterwards: what is marked was committed before it was, so it has to be there.

`pg_control_system()` may be executed by everyone, unless an administrator revoked it. Where it was, another cluster is
told by its rows, or by cursors from its future, alone.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import structlog

from core.cosmos.markers import Charter, Control, Mark, Marker, Markers, SlotMarks
from core.errors import TransientError
from core.postgres.failures import translated
from outbox.history import (
    Facts,
    judge_charter,
    judge_cursors,
    judge_marks,
    judge_server,
    read_facts,
    sent_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.cosmos.client import CosmosStore
    from core.settings import Settings

__all__ = ["Lineage", "LineageMovedError", "Mark"]

log = structlog.get_logger()

_REMEMBER = """
    UPDATE crossfeed.slot SET system_identifier = coalesce(%(system)s::bigint, system_identifier),
        timeline = %(timeline)s
    WHERE slot = ANY(%(slots)s) AND (system_identifier, timeline) IS DISTINCT FROM
        (coalesce(%(system)s::bigint, system_identifier), %(timeline)s::int)
"""


class LineageMovedError(TransientError):
    """Another relay has moved the charter on; check again before anything else is marked."""


class Lineage:
    """What tells one history of a database from another, for one relay.

    Args:
        store: the Cosmos DB database with the control container.
        settings: the name of the control container.

    """

    def __init__(self, store: CosmosStore, settings: Settings) -> None:
        self._store = store
        self._container = settings.control_container
        self._relay = str(uuid.uuid4())
        self._known: Charter | None = None
        self._markers: Markers | None = None
        self._is_valid = False
        self._slots: dict[int, SlotMarks] = {}
        self._writing = asyncio.Lock()
        self._noted = 0
        self._written = 0

    async def check(self, connection: AsyncConnection, slots: Sequence[int]) -> str:
        """Make sure that what was sent of the log is still in it; to be called after every claim and every reconnect.

        Args:
            connection: READ COMMITTED or autocommit; what is stored with the slots is committed by the caller.
            slots: those that were claimed.

        Returns:
            Which server answered, as outbox.cursor.SERVER spells it: a cursor may only be moved on this very server.

        Raises:
            HistoryLostError: it is not; the message says what was found and names `crossfeed outbox resync`.
            TransientError: a store did not answer.

        """
        async with self._writing:
            await self._write()  # whatever Postgres is now, this is what it was
        markers, control, facts = await judged(connection, self._store, self._container)
        with translated("reading the lineage"):
            await connection.exec_driver_sql(
                _REMEMBER, {"system": facts.system, "timeline": facts.timeline, "slots": list(slots)}
            )
        charter = await _moved_on(markers, control, facts)
        await self._tidy(markers, control, facts.history)
        self._known, self._markers, self._is_valid = charter, markers, True
        return facts.server

    def note(self, slots: Sequence[int], tokens: Sequence[int], mark: Mark) -> None:
        """Remember what is about to be sent: the next check asks for it, also where Postgres fails before it is marked.

        Args:
            slots: of one group, claimed and checked.
            tokens: the leases' tokens, in the order of the slots.
            mark: the newest row of a page.

        """
        for slot, token in zip(slots, tokens, strict=True):
            known = self._slots.get(slot)
            marks = SlotMarks(token, mark if known is None else max(known.highest, mark), mark)
            if marks != known:
                self._slots[slot] = marks
                self._noted += 1

    async def mark(self) -> None:
        """Record in Cosmos DB what was noted, before a cursor is moved past it; many at once are one request.

        Raises:
            LineageMovedError: another relay, or a re-sync, has moved the charter on; check again.
            StoreUnavailableError: Cosmos DB did not take it; the cursor must not be moved.

        """
        async with self._writing:
            await self._write()
            if not self._is_valid:
                msg = "the charter in the control container is another than when the lineage was checked"
                raise LineageMovedError(msg)

    async def _write(self) -> None:
        """Write what was noted and not written, if anything was."""
        noted = self._noted
        if noted == self._written or self._known is None or self._markers is None:
            return
        charter = await self._markers.write(Marker(self._relay, self._known.history, dict(self._slots)))
        self._is_valid = self._is_valid and charter == self._known
        if charter is not None:
            self._written = noted

    async def _tidy(self, markers: Markers, control: Control, history: str) -> None:
        """Forget what was sent under leases since taken over by relays that have marked rows of their own."""
        valid = [marker for marker in control.markers if marker.history == history]
        newest: dict[int, int] = {}
        for marker in valid:
            for slot, marks in marker.slots.items():
                newest[slot] = max(newest.get(slot, 0), marks.token)
        self._slots = {slot: marks for slot, marks in self._slots.items() if marks.token >= newest.get(slot, 0)}
        for marker in control.markers:
            is_needed = marker in valid and any(marks.token >= newest[slot] for slot, marks in marker.slots.items())
            if marker.relay != self._relay and not is_needed:
                await markers.remove(marker)


async def judged(connection: AsyncConnection, store: CosmosStore, container: str) -> tuple[Markers, Control, Facts]:
    """Look whether what was sent of the log is still in it, and change nothing; return what was looked at.

    Args:
        connection: READ COMMITTED or autocommit.
        store: the Cosmos DB database.
        container: the name of the control container.

    Raises:
        HistoryLostError: it is not.
        TransientError: a store did not answer.

    """
    with translated("reading the lineage"):
        instance = (await read_facts(connection)).instance
    markers = Markers(store, container, instance)
    control = await markers.read()
    with translated("reading the lineage"):
        facts = await read_facts(connection)
        judge_charter(control.charter, facts)
        await judge_server(connection, control.charter, facts)
        await judge_cursors(connection)
        await judge_marks(connection, sent_rows(control, facts.history))
    return markers, control, facts


async def _moved_on(markers: Markers, control: Control, facts: Facts) -> Charter:
    """Move the charter on to what Postgres says.

    Raises:
        LineageMovedError: another relay was faster; what it wrote has to be judged.

    """
    known = control.charter
    system = facts.system if facts.system is not None or known is None else known.system
    charter = Charter(facts.history, facts.epoch, system, facts.timeline)
    if charter == known:
        return charter
    if not await markers.grant(charter, control.charter_etag):
        msg = "another relay has moved the charter on"
        raise LineageMovedError(msg)
    if known is not None and charter.timeline != known.timeline:
        log.warning("lineage.failover_without_loss", timeline=charter.timeline, was=known.timeline)
    return charter
