"""Decides, of one type of a batch, what every change may do; reads by key what the change alone does not say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

import structlog
from sqlalchemy.exc import DBAPIError

from core.content import content_hash
from core.envelope import Origin
from core.errors import DocumentRefusedError, StoreUnavailableError
from core.postgres import dead_letters
from core.postgres.authority import Apply, Change, Decision, Ignore, Quarantine, ReadByKey, Take, decide, is_behind
from core.postgres.dead_letters import DeadLetter, Direction, quarantine_reason
from core.postgres.failures import is_documents_fault
from core.postgres.held import Held, held_of, held_query, stamps_query
from core.postgres.mirrored_batch import Batch, FeedBatch, Write, reason_of
from core.postgres.mirrored_rows import heal
from core.postgres.mirrored_writing import put_aside
from core.postgres.opening import counts, read_barrier
from core.postgres.pipeline import savepoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.postgres.pipeline import Answer, Statement

log = structlog.get_logger()


class _ContentUnreadError(Exception):
    """The stamps alone do not say what a change may do."""


Query: TypeAlias = "Callable[[EntityMapping[Any], Sequence[Identity]], tuple[str, dict[str, Any]]]"
"""Makes the statement that reads what is held."""
Decided: TypeAlias = tuple[Change, Decision]
"""What is known of a document now, and what is done about it."""

READS_AT_ONCE = 16
"""Point reads of one batch under way at a time: each is a round trip that the locks of the batch wait for."""
STALE_READ_S = 60.0
"""How long a point read that looks older than its change is taken for a stale replica, in seconds. After that the clock
of Cosmos DB must have stepped back: waiting for ever would block the feed."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a guarded write begins with: statements that travel with its first reading, and what their answers prove."""

    statements: Sequence[Statement]
    check: Callable[[Sequence[Answer]], Awaitable[None]]


async def judge(
    batch: FeedBatch, mapping: EntityMapping[Any], changes: dict[Identity, Change], opening: Opening | None = None
) -> list[Write]:
    """Decide what every change may do; quarantine what was not to be written, return what is to be.

    Args:
        batch: the guarded write.
        mapping: of the documents.
        changes: one of each identity.
        opening: what locks them, where they are not locked yet.

    """
    held = await read_held_of(batch, mapping, list(changes.values()), stamps_query, opening)
    decided: dict[Identity, Decided] = {}
    for identity, known in held.items():
        try:
            decided[identity] = changes[identity], _decide(batch, mapping, changes[identity], known)
        except _ContentUnreadError:
            decided[identity] = changes[identity], ReadByKey()
    # For most the stamps say enough; only those that they leave open are worth the reading of their rows.
    if unclear := [change for change, decision in decided.values() if isinstance(decision, ReadByKey)]:
        whole = await read_held_of(batch, mapping, unclear)
        for change in unclear:
            del held[change.identity], decided[change.identity]
        held |= whole
        for identity, known in whole.items():
            decided[identity] = changes[identity], _decide(batch, mapping, changes[identity], known)
    doubtful = [change for change, decision in decided.values() if isinstance(decision, ReadByKey)]
    decided |= await confirm(batch, mapping, doubtful, held)
    if any(isinstance(decision, ReadByKey) for _, decision in decided.values()):
        msg = f"a read of {mapping.container} by key was older than its change feed, or than what was mirrored"
        raise StoreUnavailableError(msg)
    return await sort_out(batch, mapping, decided, held)


async def confirm(
    batch: FeedBatch, mapping: EntityMapping[Any], changes: Sequence[Change], held: Mapping[Identity, Held]
) -> dict[Identity, Decided]:
    """Read documents by their keys, and decide what is done about what is there.

    Still to be read (`ReadByKey`) is what came from a replica that is behind the change.
    """
    decided: dict[Identity, Decided] = {}
    batch.outcome.reads_by_key += len(changes)
    if batch.phase.primary is Origin.COSMOS and any(_is_of_before(batch, held[change.identity]) for change in changes):
        await batch.reader.reach(mapping.container, batch.phase.epoch)
    for change, document in zip(changes, await _read_by_key(batch, changes), strict=True):
        if document is None:
            # Absence without a tombstone is never a delete; the reconcile looks at it.
            decided[change.identity] = change, Ignore()
            continue
        is_there = batch.mappings.mapping_of(mapping.container, document) is mapping
        found = (Change.of if is_there else Change.departed_from)(change.identity, document)
        known = held[change.identity]
        newest = max(change.position, known.taken or change.position)
        if is_behind(found, change, known) and batch.clock() - newest.ts < STALE_READ_S:
            decided[change.identity] = change, ReadByKey()
        else:
            decided[change.identity] = found, _decide(batch, mapping, found, known, confirmed=True)
    return decided


async def sort_out(
    batch: Batch, mapping: EntityMapping[Any], decided: Mapping[Identity, Decided], held: Mapping[Identity, Held]
) -> list[Write]:
    """Quarantine what was not to be written to Cosmos DB; return what is to be written to Postgres."""
    writes: list[Write] = []
    for identity, (current, decision) in decided.items():
        match decision:
            case Apply() | Take():
                writes.append(Write(mapping, current, decision))
            case Quarantine(kind):
                if await _is_left_behind(batch, mapping, current, held[identity]):
                    batch.outcome.ignored += 1
                else:
                    await _quarantine(batch, mapping, current, kind, held[identity])
            case Ignore() | ReadByKey():
                batch.outcome.ignored += not current.departed
            case _:
                assert_never(decision)
    return writes


async def read_held_of(
    batch: Batch,
    mapping: EntityMapping[Any],
    changes: Sequence[Change],
    query: Query = held_query,
    opening: Opening | None = None,
) -> dict[Identity, Held]:
    """Read what is held of all changes; a key that its column cannot hold becomes a dead letter."""
    identities = [change.identity for change in changes]
    first: list[Answer] = []
    try:
        async with savepoint(batch.connection, first=opening.statements if opening else ()) as pipeline:
            first = pipeline.first
            found = await pipeline.exec_driver_sql(*query(mapping, identities))
            for change in changes:
                _ = change.author  # computed here while Postgres reads
    except (DBAPIError, DocumentRefusedError) as error:  # the latter of what was parked before the key was another one
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if opening is not None:
            await opening.check(first)
        if len(changes) == 1:
            if changes[0].departed:  # nothing that its column cannot hold was ever there
                return {}
            await put_aside(batch, identities[0], f"the key: {reason_of(error)}", changes[0].document)
            return {}
        half = len(changes) // 2
        one = await read_held_of(batch, mapping, changes[:half], query)
        return one | await read_held_of(batch, mapping, changes[half:], query)
    if opening is not None:
        await opening.check(first)
    records = await found.fetchall()
    return {key: held_of(mapping, key, record) for key, record in zip(identities, records, strict=True)}


def _is_of_before(batch: Batch, held: Held) -> bool:
    """Whether a row is of an earlier epoch: what was taken then does not tell a replica that is behind from others."""
    return held.stamp is not None and held.stamp.epoch < batch.phase.epoch


async def _read_by_key(batch: FeedBatch, changes: Sequence[Change]) -> list[Document | None]:
    documents: list[Document | None] = []
    for start in range(0, len(changes), READS_AT_ONCE):
        reads = (batch.reader.read(change.identity) for change in changes[start : start + READS_AT_ONCE])
        for answer in await asyncio.gather(*reads, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            documents.append(answer)
    return documents


def _decide(
    batch: Batch, mapping: EntityMapping[Any], change: Change, held: Held, *, confirmed: bool = False
) -> Decision:
    return decide(change, held, batch.phase, lambda: _same_content(mapping, change, held), confirmed=confirmed)


def _same_content(mapping: EntityMapping[Any], change: Change, held: Held) -> bool:
    row = held.live_row
    if row is None or change.deleted:
        return row is None and change.deleted
    if not row.json:
        raise _ContentUnreadError
    try:
        return content_hash(row.document(mapping)) == content_hash(change.document)
    except DocumentRefusedError:
        return False


async def _is_left_behind(batch: Batch, mapping: EntityMapping[Any], change: Change, held: Held) -> bool:
    """Whether the switch accepted that a document has no row: a feed that is read again must not bury it for that."""
    if held.stamp is not None:
        return False
    barrier = (await read_barrier(batch.connection)).get(mapping.container)
    return barrier is not None and counts(change, batch.phase, barrier)


async def _quarantine(batch: Batch, mapping: EntityMapping[Any], change: Change, kind: str, held: Held) -> None:
    """Keep the foreign content as a dead letter and write ours again, once per content."""
    names = {"entity": mapping.name, "document_id": change.identity.id}
    reason = quarantine_reason(change.document)
    letter = DeadLetter(Direction.TO_POSTGRES, kind, change.identity, reason, change.document)
    if await dead_letters.record(batch.connection, letter):
        try:
            async with batch.connection.begin_nested():
                await heal(batch.connection, mapping, held)
        except DBAPIError as error:
            if not is_documents_fault(error):
                raise
            log.error("mirror.not_healed", **names, why=reason_of(error))  # noqa: TRY400 - a traceback may quote values
    batch.outcome.quarantined += 1
    log.warning("mirror.quarantined", kind=kind, **names)
