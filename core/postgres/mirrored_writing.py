"""Writes what was decided: all at once, or bisected until whoever is at fault is alone.

What a document says itself makes it a dead letter. A violation that depends on order (a value that another row still
has, a row that is not there yet) may be lifted by another document: those are tried again together, without the unique
values that they hold, and what is refused then is given back to the caller, who parks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import DBAPIError

from core.content import check_values, content_of
from core.errors import DocumentRefusedError
from core.events import carried_by
from core.postgres import dead_letters
from core.postgres.authority import Apply, Take
from core.postgres.dead_letters import REFUSED, DeadLetter, Direction
from core.postgres.engine import run
from core.postgres.failures import driver_error, is_documents_fault
from core.postgres.handover import let_go
from core.postgres.mirror_parking import give_up, settle
from core.postgres.mirrored_batch import Batch, Write, reason_of
from core.postgres.mirrored_events import forget_events, take_events
from core.postgres.mirrored_rows import bury, put, take
from core.postgres.pipeline import pipelined, savepoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.postgres.authority import Change
    from core.postgres.pipeline import Sends
    from core.stamp import Stamp

log = structlog.get_logger()

ROUNDS = 4
"""How often what another document of the batch may have made possible is tried again."""
PEELED = 16
"""How often those who want what somebody else keeps are left out of a group that hands values around."""

_MIRRORING = ("SELECT set_config('crossfeed.mirroring', 'on', true)",)
_NOT_MIRRORING = "SELECT set_config('crossfeed.mirroring', 'off', true)"
# Deferred constraints would fail at the commit, where no savepoint could tell whose fault it is.
_CHECK_DEFERRED = (("SET CONSTRAINTS ALL IMMEDIATE",), ("SET CONSTRAINTS ALL DEFERRED",))


class Fault(Enum):
    """Why a document was refused."""

    ITSELF = "its content"
    ROW_MISSING = "a row that is not there, or still referred to"
    VALUE_TAKEN = "a value that another row has"
    OBJECTION = "what a trigger of the user's says, perhaps of other rows"


_DEPENDS_ON_ORDER = {
    "23001": Fault.ROW_MISSING,  # ON DELETE RESTRICT since Postgres 18
    "23503": Fault.ROW_MISSING,
    "23505": Fault.VALUE_TAKEN,
    "23P01": Fault.VALUE_TAKEN,
    "P0001": Fault.OBJECTION,
    "P0004": Fault.OBJECTION,
}


@dataclass(frozen=True, slots=True)
class Refused:
    """A write that Postgres refused, and why, without values."""

    write: Write
    fault: Fault
    reason: str


async def carry_out(batch: Batch, writes: Sequence[Write]) -> list[Refused]:
    """Write what was decided, under the mirror setting, and take the events of all of it.

    What is at fault itself becomes a dead letter. The state of a document may be refused, its events are not.

    Returns:
        What was refused because of the state of other documents; the caller keeps it.

    """
    connection = batch.connection
    refused = {id(one.write): one for one in await _write_all(batch, writes)}
    written = [write for write in writes if id(write) not in refused]
    _count(batch, written)
    guilty = [one for one in refused.values() if one.fault is Fault.ITSELF]
    carried: list[tuple[EntityMapping[Any], list[Change]]] = []
    async with pipelined(connection) as pipeline:
        await settle(pipeline, [write.change for write in written])
        for mapping, its in _of_type(writes).items():
            changes = [write.change for write in its if not write.change.departed]
            await forget_events(pipeline, mapping, changes)
            carried.append((mapping, [change for change in changes if carried_by(change.document)]))
        if not guilty and not any(changes for _, changes in carried):
            await pipeline.exec_driver_sql(_NOT_MIRRORING)
            return [one for one in refused.values() if one.fault is not Fault.ITSELF]
    for one in guilty:
        await put_aside(batch, one.write.change.identity, one.reason, one.write.change.document)
    if guilty:
        await give_up(connection, [one.write.change for one in guilty])
    for mapping, changes in carried:
        batch.outcome.events += await take_events(connection, mapping, changes, batch.phase.epoch)
    await run(connection, _NOT_MIRRORING)
    return [one for one in refused.values() if one.fault is not Fault.ITSELF]


async def _write_all(batch: Batch, writes: Sequence[Write]) -> list[Refused]:
    """Write everything that can be written; return what cannot."""
    guilty: list[Refused] = []
    waiting = _sift(await _bisect(batch, writes), guilty)
    for _ in range(ROUNDS if len(writes) > 1 else 0):
        known = len(waiting)
        again = _hand_around if any(one.fault is Fault.VALUE_TAKEN for one in waiting) else _bisect
        waiting = _sift(await again(batch, [one.write for one in waiting]), guilty)
        if len(waiting) in {0, known}:
            break
    return [*guilty, *waiting]


def _sift(refused: Sequence[Refused], guilty: list[Refused]) -> list[Refused]:
    """Add to `guilty` what is at fault itself; return the others."""
    guilty += [one for one in refused if one.fault is Fault.ITSELF]
    return [one for one in refused if one.fault is not Fault.ITSELF]


def _count(batch: Batch, written: Iterable[Write]) -> None:
    for write in written:
        match write.decision:
            case Take():
                batch.outcome.taken += 1
            case Apply() if write.change.deleted:
                batch.outcome.buried += 1
            case Apply():
                batch.outcome.applied += 1


async def _hand_around(batch: Batch, writes: Sequence[Write]) -> list[Refused]:
    """Write all of `writes` whose values are free once all of them have let go of theirs; return the others.

    Those who want what somebody outside keeps are left out, then those who want what these keep, and so on.
    """
    group, left_out = list(writes), list[Write]()
    for _ in range(PEELED):
        if not group:
            break
        before = await batch.connection.begin_nested()
        try:
            for mapping, its in _of_type(group).items():
                await let_go(batch.connection, mapping, [write.change.identity for write in its])
            refused = await _bisect(batch, group)
        except DBAPIError as error:
            await before.rollback()
            if not is_documents_fault(error):
                raise
            left_out += group
            break
        if not refused:
            await before.commit()
            break
        await before.rollback()
        guilty = {id(one.write) for one in refused}
        left_out += [write for write in group if id(write) in guilty]
        group = [write for write in group if id(write) not in guilty]
    else:
        left_out += group
    return await _bisect(batch, left_out)


async def _bisect(batch: Batch, writes: Sequence[Write]) -> list[Refused]:
    """Write all of `writes` but the guilty ones, which are returned with the reason."""
    if not writes:
        return []
    try:
        async with savepoint(batch.connection, first=[_MIRRORING], last=_CHECK_DEFERRED) as pipeline:
            await _write(pipeline, writes)
    except (DBAPIError, DocumentRefusedError) as error:
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if len(writes) == 1:
            cause = driver_error(error)
            fault = _DEPENDS_ON_ORDER.get((cause.sqlstate if cause is not None else None) or "", Fault.ITSELF)
            return [Refused(writes[0], fault, reason_of(error))]
        half = len(writes) // 2
        return [*await _bisect(batch, writes[:half]), *await _bisect(batch, writes[half:])]
    return []


async def _write(connection: Sends, writes: Sequence[Write]) -> None:
    of_type = _of_type(writes)
    order = parents_first(tuple(of_type))
    # First those that go: what they held may be what the others get.
    for mapping in reversed(order):
        await bury(connection, mapping, [one for one in _applied(of_type[mapping]) if one[0].deleted])
    for mapping in order:
        live = [one for one in _applied(of_type[mapping]) if not one[0].deleted]
        for change, _ in live:
            if not change.is_sound:
                check_values(content_of(change.document))
        await put(connection, mapping, live)
        await take(
            connection, mapping, [write.change for write in of_type[mapping] if isinstance(write.decision, Take)]
        )


def _applied(writes: Iterable[Write]) -> list[tuple[Change, Stamp]]:
    return [(write.change, write.decision.stamp) for write in writes if isinstance(write.decision, Apply)]


@lru_cache(maxsize=256)
def parents_first(mappings: tuple[EntityMapping[Any], ...]) -> tuple[EntityMapping[Any], ...]:
    """Sort the types of one batch so that none refers to a later one, as far as foreign keys are declared."""
    by_table = {mapping.table.fullname: mapping for mapping in mappings}
    referred = {
        mapping: {
            by_table[name]
            for key in mapping.table.foreign_keys
            if (name := key.target_fullname.rpartition(".")[0]) in by_table and name != mapping.table.fullname
        }
        for mapping in mappings
    }
    try:
        return tuple(TopologicalSorter(referred).static_order())
    except CycleError:
        return mappings


def _of_type(writes: Iterable[Write]) -> dict[EntityMapping[Any], list[Write]]:
    found: dict[EntityMapping[Any], list[Write]] = {}
    for write in writes:
        found.setdefault(write.mapping, []).append(write)
    return found


async def put_aside(batch: Batch, identity: Identity, reason: str, document: Document) -> None:
    """Make a dead letter of a document that cannot be applied."""
    await dead_letters.record(batch.connection, DeadLetter(Direction.TO_POSTGRES, REFUSED, identity, reason, document))
    batch.outcome.dead_lettered += 1
    log.warning("mirror.dead_lettered", entity=identity.entity, document_id=identity.id, reason=reason)
