"""Tries again what the mirror has parked: the documents as they are now, in one transaction like any other batch.

What is parked may come from several containers, so the tables of all of them are locked first, in their order. Then
phase and epoch are read, the identities locked, and only then the documents read by their keys.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from core.errors import StoreUnavailableError
from core.postgres.authority import Change, Ignore, ReadByKey
from core.postgres.guarded import lock_and_check, lock_identities
from core.postgres.mirror_parking import (
    MirrorPatience,
    ParkedChange,
    candidates,
    count_attempts,
    is_any_due,
    postpone,
    read_parked,
    unpark,
)
from core.postgres.mirrored_batch import DocumentReader, FeedBatch, Outcome, Write
from core.postgres.mirrored_judging import STALE_READ_S, confirm, read_held_of, sort_out
from core.postgres.mirrored_writing import carry_out, put_aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.mirrored_judging import Decided
    from core.postgres.mirrored_writing import Refused

log = structlog.get_logger()

AT_ONCE = 100
"""How many parked documents are tried in one transaction."""

Parked = dict["Identity", ParkedChange]


async def retry_parked(  # noqa: PLR0913 - the facts of one guarded write
    connection: AsyncConnection,
    mappings: Mappings,
    phase: PhaseRow,
    reader: DocumentReader,
    patience: MirrorPatience,
    *,
    eager: bool = False,
    clock: Callable[[], float] = time.time,
) -> tuple[Outcome, bool]:
    """Try parked documents again, as they are now, in the caller's transaction.

    Only an attempt that was due counts; after the last one the document becomes a dead letter. May be called by any
    number of processes at any time: one of them works.

    Args:
        connection: in a READ COMMITTED transaction that holds no lock yet, which the caller commits afterwards.
        mappings: all mappings of the process.
        phase: the phase row, as it was read before.
        reader: reads the documents.
        patience: how often, and how soon again.
        eager: try also if nothing is due: something has changed that may have been in the way.
        clock: seconds since 1970.

    Returns:
        What was done, and whether it may have made more possible.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more; nothing was written.
        StoreUnavailableError: Cosmos DB did not answer.

    """
    batch = FeedBatch(connection, mappings, phase, Outcome(), reader, clock)
    if not (eager or await is_any_due(connection, patience)):
        return batch.outcome, False
    identities = await candidates(connection, [mapping.name for mapping in mappings], AT_ONCE)
    if not identities:
        return batch.outcome, False
    entities = {identity.entity for identity in identities}
    await lock_and_check(connection, [mapping for mapping in mappings if mapping.name in entities], phase)
    await lock_identities(connection, identities)
    parked = {one.identity: one for one in await read_parked(connection, identities, patience)}
    writes, unclear = await _judge_all(batch, parked)
    waiting = await carry_out(batch, writes)
    kept = {one.write.change.identity for one in waiting} | set(unclear)
    done = [identity for identity in parked if identity not in kept]
    await unpark(connection, done)
    await postpone(connection, [identity for identity in unclear if parked[identity].is_due], patience)
    await _count(batch, [one for one in waiting if parked[one.write.change.identity].is_due], patience)
    if done:
        log.info("mirror.unparked", documents=len(done), still_parked=len(kept))
    return batch.outcome, bool(done) and (bool(kept) or len(identities) == AT_ONCE)


async def _judge_all(batch: FeedBatch, parked: Parked) -> tuple[list[Write], list[Identity]]:
    """Decide, type by type; a container that does not answer holds back no other, unless none of them does."""
    writes: list[Write] = []
    unclear: list[Identity] = []
    failure: StoreUnavailableError | None = None
    for mapping in batch.mappings:
        its = [one for identity, one in parked.items() if identity.entity == mapping.name]
        try:
            writes += await _judge(batch, mapping, its, unclear)
        except StoreUnavailableError as error:
            failure = error
            unclear += [one.identity for one in its]
            log.warning("mirror.parked_not_read", entity=mapping.name, documents=len(its), reason=str(error))
    if failure is not None and len(unclear) == len(parked):
        raise failure
    return writes, unclear


async def _judge(
    batch: FeedBatch, mapping: EntityMapping[Any], parked: list[ParkedChange], unclear: list[Identity]
) -> list[Write]:
    """Read documents by their keys and decide; what may be the answer of a replica that is behind is `unclear`."""
    changes = [Change(one.identity, {}, one.etag, one.position, deleted=False) for one in parked]
    if not changes:
        return []
    held = await read_held_of(batch, mapping, changes)
    decided: dict[Identity, Decided] = {}
    found = await confirm(batch, mapping, [change for change in changes if change.identity in held], held)
    for change in changes:
        current, decision = found.get(change.identity, (change, Ignore()))
        is_missing = current is change and batch.clock() - change.position.ts < STALE_READ_S
        if is_missing or isinstance(decision, ReadByKey):
            unclear.append(change.identity)
        else:
            decided[change.identity] = current, decision
    return await sort_out(batch, mapping, decided, held)


async def _count(batch: FeedBatch, refused: list[Refused], patience: MirrorPatience) -> None:
    """Count the attempts; a document that has none left becomes a dead letter."""
    if not refused:
        return
    changes = [(one.write.change, one.reason) for one in refused]
    hopeless = await count_attempts(batch.connection, changes, patience)
    for change, reason in changes:
        if change.identity in hopeless:
            await put_aside(
                batch, change.identity, f"{reason}, still after {patience.attempts} attempts", change.document
            )
    await unpark(batch.connection, list(hopeless))
