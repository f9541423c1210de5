"""The guarded write to Postgres: the only way in which mirror, backfill and repair write mapped tables.

One READ COMMITTED transaction, the caller's: the mapped tables are locked as the flip locks them, then phase and epoch
are read afresh (a mirror that slept through a switch must not write), then the identities are locked in order. Only
then is anything read, decided (core.postgres.authority) or written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from sqlalchemy.exc import DBAPIError

from core.content import check_values, content_hash, content_of
from core.errors import DocumentRefusedError, PrimaryMovedError, StoreUnavailableError
from core.identity import Identity
from core.postgres import dead_letters
from core.postgres.authority import Apply, Change, Decision, Ignore, Quarantine, ReadByKey, Take, decide, is_behind
from core.postgres.dead_letters import REFUSED, DeadLetter, Direction, quarantine_reason
from core.postgres.failures import describe, driver_error, is_documents_fault
from core.postgres.held import Held, read_held
from core.postgres.mirrored_events import take_events
from core.postgres.mirrored_rows import bury, heal, put, take
from core.postgres.names import table_name
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.mapping import EntityMapping
    from core.phases import PhaseRow

log = structlog.get_logger()

STALE_READ_S = 60.0
"""How long a point read that looks older than its change is taken for a stale replica, in seconds. After that the clock
of Cosmos DB must have stepped back: waiting for ever would block the feed."""

_LOCK_IDENTITIES = """
    SELECT pg_advisory_xact_lock(key) FROM (
        SELECT DISTINCT hashtextextended(identity, 0) AS key FROM unnest(%(identities)s::text[]) AS identity ORDER BY 1
    ) AS keys
"""

_CHECK_DEFERRED = "DO $$ BEGIN SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED; END $$"


class DocumentReader(Protocol):
    """Reads one document of Cosmos DB by its key, in a session that has seen everything the feed has shown."""

    async def read(self, identity: Identity) -> Document | None:
        """Return the document with its system properties, or None where there is none."""
        ...


@dataclass(slots=True)
class Outcome:
    """What one guarded write did, counted in documents, and in events that were new."""

    applied: int = 0
    buried: int = 0
    taken: int = 0
    ignored: int = 0
    quarantined: int = 0
    dead_lettered: int = 0
    reads_by_key: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """What all steps of one guarded write share."""

    connection: AsyncConnection
    mapping: EntityMapping[Any]
    phase: PhaseRow
    reader: DocumentReader
    clock: Callable[[], float]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Write:
    change: Change
    decision: Apply | Take


async def apply_documents(  # noqa: PLR0913 - the facts of one guarded write
    connection: AsyncConnection,
    mapping: EntityMapping[Any],
    documents: Sequence[Document],
    phase: PhaseRow,
    reader: DocumentReader,
    *,
    clock: Callable[[], float] = time.time,
) -> Outcome:
    """Apply documents of one container, as the change feed or a backfill showed them, in the caller's transaction.

    Redelivery, reordering and duplicates are harmless. A document that cannot be applied becomes a dead letter in
    the same transaction; the others are applied.

    Args:
        connection: in a READ COMMITTED transaction without savepoints, which the caller commits afterwards.
        mapping: the mapping of the container.
        documents: with their system properties, in feed order.
        phase: the phase row that the caller read before it read the documents.
        reader: where the change alone does not say what is current.
        clock: seconds since 1970.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more; nothing was written.
        StoreUnavailableError: a point read was older than the change that asked for it; repeat.

    """
    batch = _Batch(connection, mapping, phase, reader, clock, Outcome())
    await _lock_and_check(batch)
    changes = await _changes(batch, documents)
    await connection.exec_driver_sql(_LOCK_IDENTITIES, {"identities": [str(identity) for identity in changes]})
    held = await _read_held(batch, list(changes.values()))
    writes: list[_Write] = []
    for identity in held:
        current, decision = await _decide(batch, changes[identity], held[identity])
        match decision:
            case Apply() | Take():
                writes.append(_Write(current, decision))
            case Quarantine(kind):
                await _quarantine(batch, current, kind, held[identity])
            case Ignore() | ReadByKey():
                batch.outcome.ignored += 1
    await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
    await _write_all(batch, writes)
    batch.outcome.events = await take_events(connection, mapping, [write.change for write in writes], phase.epoch)
    await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'off', true)")
    return batch.outcome


async def _lock_and_check(batch: _Batch) -> None:
    mapping, phase = batch.mapping, batch.phase
    tables = ", ".join(table_name(table) for table in (mapping.table, *(child.table for child in mapping.children)))
    await batch.connection.exec_driver_sql(f"LOCK TABLE {tables} IN ROW EXCLUSIVE MODE")
    now = await read_phase(batch.connection)
    if (now.phase, now.epoch) != (phase.phase, phase.epoch):
        msg = (
            f"the batch was read in phase {phase.phase.label}, epoch {phase.epoch};"
            f" it is {now.phase.label}, epoch {now.epoch} now"
        )
        raise PrimaryMovedError(msg)


async def _changes(batch: _Batch, documents: Sequence[Document]) -> dict[Identity, Change]:
    """Return the newest change of each identity; what has no usable identity goes to the dead letters."""
    changes: dict[Identity, Change] = {}
    for document in documents:
        try:
            change = Change.of(_storable_identity(batch.mapping, document), document)
        except DocumentRefusedError as error:
            identity = Identity(batch.mapping.name, "", str(document.get("id", "")))
            await _dead_letter(batch, identity, str(error), document)
            continue
        known = changes.pop(change.identity, None)
        changes[change.identity] = change if known is None or change.position >= known.position else known
    return changes


def _storable_identity(mapping: EntityMapping[Any], document: Document) -> Identity:
    identity = mapping.identity(document)
    if not identity.can_be_stored:
        msg = "the key holds a NUL character or half of a surrogate pair, which Postgres cannot store"
        raise DocumentRefusedError(msg)
    return identity


async def _read_held(batch: _Batch, changes: list[Change]) -> dict[Identity, Held]:
    """Read what is held of all changes; a key that its column cannot hold becomes a dead letter."""
    identities = [change.identity for change in changes]
    try:
        async with batch.connection.begin_nested():
            held = await read_held(batch.connection, batch.mapping, identities)
    except DBAPIError as error:
        if not is_documents_fault(error):
            raise
        if len(changes) == 1:
            await _dead_letter(batch, identities[0], f"the key: {_reason(error)}", changes[0].document)
            return {}
        half = len(changes) // 2
        return await _read_held(batch, changes[:half]) | await _read_held(batch, changes[half:])
    return dict(zip(identities, held, strict=True))


def _reason(error: DBAPIError | DocumentRefusedError) -> str:
    cause = driver_error(error)
    return describe(cause) if cause is not None else str(error)


async def _decide(batch: _Batch, change: Change, held: Held) -> tuple[Change, Decision]:
    mapping = batch.mapping
    decision = decide(change, held, batch.phase, lambda: _same_content(mapping, change, held))
    if not isinstance(decision, ReadByKey):
        return change, decision
    batch.outcome.reads_by_key += 1
    document = await batch.reader.read(change.identity)
    if document is None:
        # Absence without a tombstone is never a delete; the reconcile looks at it.
        return change, Ignore()
    found = Change.of(change.identity, document)
    newest = max(change.position, held.taken or change.position)
    if is_behind(found, change, held) and batch.clock() - newest.ts < STALE_READ_S:
        msg = f"a read of {mapping.container} by key was older than its change feed, or than what was mirrored"
        raise StoreUnavailableError(msg)
    return found, decide(found, held, batch.phase, lambda: _same_content(mapping, found, held), confirmed=True)


def _same_content(mapping: EntityMapping[Any], change: Change, held: Held) -> bool:
    row = held.live_row
    if row is None or change.deleted:
        return row is None and change.deleted
    try:
        return content_hash(row.document(mapping)) == content_hash(change.document)
    except DocumentRefusedError:
        return False


async def _quarantine(batch: _Batch, change: Change, kind: str, held: Held) -> None:
    """Keep the foreign content as a dead letter and write ours again, once per content."""
    names = {"entity": batch.mapping.name, "document_id": change.identity.id}
    reason = quarantine_reason(change.document)
    letter = DeadLetter(Direction.TO_POSTGRES, kind, change.identity, reason, change.document)
    if await dead_letters.record(batch.connection, letter):
        try:
            async with batch.connection.begin_nested():
                await heal(batch.connection, batch.mapping, held)
        except DBAPIError as error:
            if not is_documents_fault(error):
                raise
            log.error("mirror.not_healed", **names, why=_reason(error))  # noqa: TRY400 - a traceback may quote values
    batch.outcome.quarantined += 1
    log.warning("mirror.quarantined", kind=kind, **names)


async def _write_all(batch: _Batch, writes: list[_Write]) -> None:
    """Write everything that can be written; a violation that another document of the batch lifts is tried again."""
    failed = await _bisect(batch, writes)
    while failed:
        still = await _bisect(batch, [write for write, _ in failed])
        if len(still) == len(failed):
            break
        failed = still
    for write, reason in failed:
        await _dead_letter(batch, write.change.identity, reason, write.change.document)


async def _bisect(batch: _Batch, writes: list[_Write]) -> list[tuple[_Write, str]]:
    """Write all of `writes` but the guilty ones, which are returned with the reason."""
    if not writes:
        return []
    try:
        async with batch.connection.begin_nested():
            await _write(batch, writes)
    except (DBAPIError, DocumentRefusedError) as error:
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if len(writes) == 1:
            return [(writes[0], _reason(error))]
        half = len(writes) // 2
        return [*await _bisect(batch, writes[:half]), *await _bisect(batch, writes[half:])]
    for write in writes:
        match write.decision:
            case Take():
                batch.outcome.taken += 1
            case Apply() if write.change.deleted:
                batch.outcome.buried += 1
            case Apply():
                batch.outcome.applied += 1
    return []


async def _write(batch: _Batch, writes: Sequence[_Write]) -> None:
    connection, mapping = batch.connection, batch.mapping
    applied = [(write.change, write.decision.stamp) for write in writes if isinstance(write.decision, Apply)]
    live = [(change, stamp) for change, stamp in applied if not change.deleted]
    for change, _ in live:
        check_values(content_of(change.document))
    await put(connection, mapping, live)
    await bury(connection, mapping, [(change, stamp) for change, stamp in applied if change.deleted])
    await take(connection, mapping, [write.change for write in writes if isinstance(write.decision, Take)])
    # Deferred constraints would fail at the commit, where no savepoint could tell whose fault it is.
    await connection.exec_driver_sql(_CHECK_DEFERRED)
    await dead_letters.settle(connection, Direction.TO_POSTGRES, [change.identity for change, _ in applied])


async def _dead_letter(batch: _Batch, identity: Identity, reason: str, document: Document) -> None:
    await dead_letters.record(batch.connection, DeadLetter(Direction.TO_POSTGRES, REFUSED, identity, reason, document))
    batch.outcome.dead_lettered += 1
    log.warning("mirror.dead_lettered", entity=identity.entity, document_id=identity.id, reason=reason)
