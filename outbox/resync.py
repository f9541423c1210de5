"""Makes a Postgres that lost commits the valid one again, and Cosmos DB its copy: `crossfeed outbox resync`.

    begin      Postgres notes which history is opened, so that a re-sync that was killed is resumed under its name.
    take over  the charter in Cosmos DB gets that history: from now on every relay of this database, and of any other
               that thinks it is this one, stops at its next marker. They get a lease's time for what is under way.
    look       every document: what Postgres lost is kept as a dead letter, what has neither row nor tombstone gets a
               tombstone. (Only while Cosmos DB follows Postgres.)
    open       one transaction, all writers locked out: an epoch above everything that was seen, slots without owners
               and with cursors of this cluster, an empty log; events in it that were not sent are put into it anew.
               From now on relays of this database may run.
    restamp    every row and tombstone gets a stamp of that epoch and a message, in small transactions. The guard at
               the target does the rest: whatever Cosmos DB holds is of an earlier epoch.
    end        Postgres notes that it is done.

Each step may be killed at any instruction and is done again by the next run; what is open already stays open.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from core.cosmos.markers import Charter, Markers
from core.errors import ConflictError, MappingError, StoreUnavailableError, TransientError
from core.phases import Phase, PhaseState
from core.postgres.failures import translated
from core.postgres.phases import read_phase, reopen_phase
from outbox.findings import Findings, Search
from outbox.history import Facts, read_facts
from outbox.restamp import restamp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.progress import Progress
    from core.settings import Settings

log = structlog.get_logger()

T = TypeVar("T")

_ATTEMPTS: Final = 10

_BEGIN = """
    UPDATE crossfeed.lineage SET opening = coalesce(opening, gen_random_uuid()) RETURNING opening::text, republish
"""
_CAPTURED = "SELECT entity FROM crossfeed.captured WHERE entity <> ALL(%(known)s) ORDER BY 1"

# What a slot's cursor has not seen, where both are of this cluster. In another one, into which a dump was restored,
# what was committed since has transaction ids that the cursor takes for delivered ones: there all events of the log go
# out again, and those that were delivered are found by their ids.
_UNSENT_EVENTS = """
    CREATE TEMPORARY TABLE crossfeed_unsent ON COMMIT DROP AS
    SELECT o.* FROM crossfeed.outbox o JOIN crossfeed.slot s USING (slot)
    WHERE o.event_id IS NOT NULL AND (s.system_identifier IS DISTINCT FROM %(system)s::bigint
        OR NOT pg_visible_in_snapshot(o.xid, s.seen)
        AND (s.target IS NULL OR o.seq > s.position OR NOT pg_visible_in_snapshot(o.xid, s.target)))
"""
_PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'crossfeed.outbox'::regclass"
# New numbers and this transaction's id; in their order.
_SEND_AGAIN = """
    INSERT INTO crossfeed.outbox
        (slot, entity, partition_key, id, epoch, version, deleted, traceparent, at, event_id, event)
    SELECT slot, entity, partition_key, id, epoch, version, deleted, traceparent, at, event_id, event
    FROM crossfeed_unsent ORDER BY seq
"""
# The snapshot of a transaction shows its own writes, which no relay has seen yet: it counts as in progress.
_RESET = """
    WITH now AS (SELECT pg_current_snapshot() AS snapshot, pg_current_xact_id() AS own),
    cursor AS (
        SELECT CASE WHEN NOT pg_visible_in_snapshot(own, snapshot) THEN snapshot ELSE (
            least(own, pg_snapshot_xmin(snapshot)) || ':' || pg_snapshot_xmax(snapshot) || ':' || (
                SELECT string_agg(xid::text, ',' ORDER BY xid)
                FROM (SELECT pg_snapshot_xip(snapshot) AS xid UNION SELECT own) AS xids))::pg_snapshot END AS seen
        FROM now
    )
    UPDATE crossfeed.slot SET seen = cursor.seen, target = NULL, position = 0, at = clock_timestamp(), owner = NULL,
        token = token + 1, system_identifier = %(system)s, timeline = %(timeline)s
    FROM cursor
"""
_OPENED = """
    UPDATE crossfeed.lineage SET history = opening, republish = %(epoch)s
    WHERE opening = %(opening)s::uuid AND republish IS NULL
"""
_ANOTHER: Final = "another re-sync of this database is under way, or has ended; look at the relays"
_END = "UPDATE crossfeed.lineage SET opening = NULL, republish = NULL WHERE opening = %(opening)s::uuid"


@dataclass(frozen=True, slots=True)
class Resynced:
    """What a re-sync did, or (`epoch` None) would do; `published` is how many rows and tombstones go to Cosmos DB."""

    phase: Phase
    epoch: int | None
    findings: Findings | None
    published: int


class Resync:
    """One run of a re-sync.

    Args:
        engine: the database, of the role that owns its tables.
        store: the Cosmos DB database.
        mappings: of everything that is captured.
        settings: the control container's name, the page size, and how long relays keep a lease.
        report: told how far each step is.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        settings: Settings,
        report: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._mappings = mappings
        self._settings = settings
        self._report = report

    async def plan(self) -> Resynced:
        """Look, and change nothing.

        Raises:
            CrossfeedError: as `run`.

        """
        phase = await self._check()
        return Resynced(phase.phase, None, await self._look(phase, keep=False), 0)

    async def run(self, *, who: str, why: str) -> Resynced:
        """Do it, or go on with one that was begun.

        Args:
            who: the operator, for the history of epochs.
            why: the reason, for the history of epochs.

        Raises:
            ConflictError: a switch of the primary is under way, or a writer does not end (it is named).
            MappingError: a table is captured for which there is no mapping.
            CrossfeedError: a store failed; run it again, it goes on.

        """
        phase = await self._check()
        opening, republish = await self._begin()
        findings = None
        if republish is None:
            newest = await self._take_over(opening)
            await asyncio.sleep(self._settings.relay_lease_s)
            findings = await self._look(phase, keep=True)
            phase = await self._open(phase, opening, max(newest, findings.newest_epoch) + 1, who, why)
            republish = phase.epoch
        log.info("resync.opened", phase=phase.phase.label, epoch=republish)
        published = 0
        if phase.phase is Phase.DUAL_WRITE_POSTGRES_READ:
            published = await _patiently(partial(restamp, self._engine, self._mappings, republish, self._report))
        with translated("ending the re-sync"):
            async with self._engine.begin() as connection:
                await connection.exec_driver_sql(_END, {"opening": opening})
        return Resynced(phase.phase, republish, findings, published)

    async def _check(self) -> PhaseRow:
        with translated("reading the phase"):
            async with self._engine.connect() as connection:
                phase = await read_phase(connection)
                known = {"known": [mapping.name for mapping in self._mappings]}
                unknown = list((await connection.exec_driver_sql(_CAPTURED, known)).scalars())
        if phase.state is not PhaseState.STEADY:
            msg = f"a switch is under way in phase {phase.phase.label}; end it first"
            raise ConflictError(msg)
        if unknown:
            msg = f"{', '.join(unknown)}: captured, but CROSSFEED_MAPPINGS has no mapping; it could not be published"
            raise MappingError(msg)
        return phase

    async def _begin(self) -> tuple[str, int | None]:
        with translated("beginning the re-sync"):
            async with self._engine.begin() as connection:
                row: tuple[str, int | None] = tuple((await connection.exec_driver_sql(_BEGIN)).one())
        return row

    async def _take_over(self, opening: str) -> int:
        """Give the charter to this database; return the newest epoch that either of them knows."""

        async def once() -> int:
            facts = await self._facts()
            if facts.opening != opening:
                raise ConflictError(_ANOTHER)
            markers = Markers(self._store, self._settings.control_container, facts.instance)
            control = await markers.read()
            known = control.charter
            newest = max(facts.epoch, known.epoch if known is not None else 0)
            charter = Charter(opening, newest, facts.system, facts.timeline)
            if charter != known and not await markers.grant(charter, control.charter_etag):
                msg = "a relay has moved the charter on just now"
                raise StoreUnavailableError(msg)
            return newest

        return await _patiently(once)

    async def _facts(self) -> Facts:
        with translated("reading the lineage"):
            async with self._engine.connect() as connection:
                return await read_facts(connection)

    async def _look(self, phase: PhaseRow, *, keep: bool) -> Findings:
        follows = phase.phase is Phase.DUAL_WRITE_POSTGRES_READ

        async def once() -> Findings:
            search = Search(self._engine, self._store, self._settings.relay_page_size, keep=keep and follows)
            return await search.run(self._mappings, self._report)

        return await _patiently(once)

    async def _open(self, looked_at: PhaseRow, opening: str, at_least: int, who: str, why: str) -> PhaseRow:
        facts = await self._facts()

        async def meanwhile(connection: AsyncConnection, row: PhaseRow) -> None:
            if row.phase is not looked_at.phase:
                msg = f"phase {row.phase.label} was opened meanwhile; begin again"
                raise ConflictError(msg)
            opened = await connection.exec_driver_sql(_OPENED, {"epoch": row.epoch, "opening": opening})
            if opened.rowcount == 0:
                raise ConflictError(_ANOTHER)
            await _restart_log(connection, facts)

        with translated("opening the epoch of the re-sync"):
            return await reopen_phase(self._engine, at_least, meanwhile, who=who, why=why)


async def _restart_log(connection: AsyncConnection, facts: Facts) -> None:
    """Empty the log of what another cluster may have numbered, but for the events that are still to be sent."""
    await connection.exec_driver_sql(_UNSENT_EVENTS, {"system": facts.system})
    partitions = list((await connection.exec_driver_sql(_PARTITIONS)).scalars())
    await connection.exec_driver_sql(f"TRUNCATE {', '.join(partitions)}")
    # The fence of the log is for writers: while Cosmos DB is the primary, only its events are in there.
    await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
    await connection.exec_driver_sql(_SEND_AGAIN)
    await connection.exec_driver_sql(_RESET, {"system": facts.system, "timeline": facts.timeline})


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat what infrastructure failed, for a while; then the operator runs the command again."""
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(TransientError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return await attempts(step)
