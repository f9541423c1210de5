"""Judges whether a Postgres is the one that Cosmos DB was sent from: its charter, its cursors, its log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from core.errors import HistoryLostError, StoreUnavailableError
from outbox.cursor import SERVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.cosmos.markers import Charter, Control, Mark

CURE: Final = "see that no other database sends to this Cosmos DB, then run: crossfeed outbox resync"

# The timeline of the WAL that is being written; pg_control_checkpoint() would tell that of the last checkpoint.
_FACTS = f"""
    SELECT l.instance::text, l.history::text, l.opening::text, p.epoch, pg_is_in_recovery(), {SERVER},
        CASE WHEN NOT pg_is_in_recovery()
            THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
        has_function_privilege('pg_control_system()', 'EXECUTE')
    FROM crossfeed.lineage l, crossfeed.phase p
"""

_SYSTEM = "SELECT system_identifier FROM pg_control_system()"

_STRANGERS = """
    SELECT array_agg(slot ORDER BY slot) FILTER (WHERE system_identifier <> %(system)s::bigint),
        array_agg(slot ORDER BY slot) FILTER (WHERE timeline > %(timeline)s::int)
    FROM crossfeed.slot
"""

# A row or a cursor of another cluster may be ahead of all transactions here.
_FROM_FUTURE = """
    SELECT array_agg(slot ORDER BY slot)
            FILTER (WHERE pg_snapshot_xmax(coalesce(target, seen)) > pg_snapshot_xmax(pg_current_snapshot())),
        (SELECT xid FROM crossfeed.outbox ORDER BY xid DESC LIMIT 1) >= pg_snapshot_xmax(pg_current_snapshot())
    FROM crossfeed.slot
"""

_LOST = """
    SELECT m.seq FROM unnest(%(seqs)s::bigint[], %(xids)s::text[], %(ats)s::text[]) AS m(seq, xid, at)
    LEFT JOIN crossfeed.outbox o ON o.seq = m.seq AND o.xid = m.xid::xid8 AND o.at = m.at::timestamptz
    WHERE o.seq IS NULL AND NOT EXISTS (
        SELECT FROM crossfeed.outbox_partition WHERE dropped_at IS NOT NULL AND m.seq >= from_seq AND m.seq < until_seq)
    ORDER BY m.seq
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What Postgres says of itself. `system` is None where it may not be asked."""

    instance: str
    history: str
    opening: str | None
    epoch: int
    server: str
    timeline: int
    system: int | None


async def read_facts(connection: AsyncConnection) -> Facts:
    """Ask Postgres, on a connection in autocommit or READ COMMITTED.

    Raises:
        StoreUnavailableError: this is a standby, whose answers are not the primary's.
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    row: tuple[Any, ...] = tuple((await connection.exec_driver_sql(_FACTS)).one())
    instance, history, opening, epoch, is_standby, server, timeline, may_ask = row
    if is_standby:
        msg = "the connection leads to a standby; the log is read from the primary only"
        raise StoreUnavailableError(msg)
    system = (await connection.exec_driver_sql(_SYSTEM)).scalar_one() if may_ask else None
    return Facts(instance, history, opening, epoch, server, timeline, system)


def judge_charter(charter: Charter | None, facts: Facts) -> None:
    """See that Postgres is of the charter's history, and has come as far.

    Raises:
        HistoryLostError: it is not, or has not.

    """
    if charter is None:
        return
    if charter.history != facts.history:
        if charter.history == facts.opening:
            msg = "a re-sync of this database was begun and is not finished; run again: crossfeed outbox resync"
            raise HistoryLostError(msg)
        lost("another database was made the valid one by a re-sync since")
    if charter.epoch > facts.epoch:
        lost(f"epoch {charter.epoch} was opened once, this database knows {facts.epoch} as the newest")


async def judge_server(connection: AsyncConnection, charter: Charter | None, facts: Facts) -> None:
    """See that the log and its cursors are of this cluster, and that no other server has gone on with them.

    Raises:
        HistoryLostError: they are not, or one has.

    """
    result = await connection.exec_driver_sql(_STRANGERS, {"system": facts.system, "timeline": facts.timeline})
    other_cluster, later_timeline = tuple(result.one())
    if charter is not None and None not in {charter.system, facts.system} and charter.system != facts.system:
        lost(f"this is cluster {facts.system}, what was sent came from cluster {charter.system}")
    if other_cluster:
        lost(f"this is cluster {facts.system}, the cursors of slots {other_cluster} are of another one")
    if charter is not None and charter.timeline > facts.timeline:
        lost(f"this is timeline {facts.timeline}, another server went on with timeline {charter.timeline}")
    if later_timeline:
        lost(f"this is timeline {facts.timeline}, the cursors of slots {later_timeline} are of a later one")


async def judge_cursors(connection: AsyncConnection) -> None:
    """Hold cursors and log against the transaction ids that there were: others would be skipped in silence.

    Raises:
        HistoryLostError: they are from the future.

    """
    cursors, log = tuple((await connection.exec_driver_sql(_FROM_FUTURE)).one())
    if cursors:
        lost(f"the cursors of slots {cursors} have seen transactions that are still to come here")
    if log:
        lost("rows of crossfeed.outbox are of transactions that are still to come here")


def sent_rows(control: Control, history: str) -> set[Mark]:
    """Return the rows that markers of a history name."""
    marks = [marks for marker in control.markers if marker.history == history for marks in marker.slots.values()]
    return {row for slot in marks for row in (slot.highest, slot.last)}


async def judge_marks(connection: AsyncConnection, marks: Iterable[Mark]) -> None:
    """See that rows which were sent are in the log, or were dropped with their partition.

    Raises:
        HistoryLostError: some are not.

    """
    rows = sorted(set(marks))
    parameters = {
        "seqs": [mark.seq for mark in rows],
        "xids": [str(mark.xid) for mark in rows],
        "ats": [mark.at for mark in rows],
    }
    if missing := list((await connection.exec_driver_sql(_LOST, parameters)).scalars()):
        lost(f"rows {', '.join(map(str, missing[:5]))} of crossfeed.outbox were sent and are not in it any more")


def lost(found: str) -> NoReturn:
    """Raise HistoryLostError, saying what was found and what to do."""
    msg = f"Postgres does not hold what was sent from it: {found}; {CURE}"
    raise HistoryLostError(msg)
