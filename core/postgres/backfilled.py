"""The guarded backfill: takes documents that never reached Postgres, while Postgres is the primary.

It loses every race. A document counts only if it is of the time before Postgres became the primary, and Postgres holds
nothing of it: neither a row nor a tombstone. Live writers take no locks on identities, so one may add the entity, and
delete it, between that look and the insert. Once the insert is done nobody else can add it; a second statement, whose
snapshot is younger, then sees whatever was committed before: another row, which was kept, or a tombstone. Either undoes
the backfill. Nothing is sent to Cosmos DB, which has the document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.postgres.authority import Apply
from core.postgres.guarded import Unusable, by_type, changes_of, lock_and_check, lock_identities
from core.postgres.held import stamps_query
from core.postgres.mirrored_batch import Batch, Outcome, Write
from core.postgres.mirrored_judging import read_held_of
from core.postgres.mirrored_writing import carry_out, put_aside
from core.postgres.opening import counts, stamp_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.authority import Change
    from core.postgres.opening import Barrier


async def backfill_documents(  # noqa: PLR0913 - the facts of one guarded write
    connection: AsyncConnection,
    mappings: Mappings,
    container: str,
    documents: Sequence[Document],
    phase: PhaseRow,
    *,
    barrier: Barrier | None,
) -> Outcome:
    """Insert the rows of documents of one container that Postgres holds nothing of, in the caller's transaction.

    May be repeated. What Postgres refuses becomes a dead letter in the same transaction, also where another row's state
    is why; nothing is parked, because nothing will come out of a feed to lift it.

    Args:
        connection: in a READ COMMITTED transaction that holds no lock yet, which the caller commits afterwards.
        mappings: all mappings of the process.
        container: the container's name.
        documents: with their system properties.
        phase: the phase row that the caller read before it read the documents; Postgres is the primary in it.
        barrier: see `core.postgres.opening.counts`.

    Returns:
        What was done: `applied`, `dead_lettered`, and `ignored` where it did not count or Postgres holds something.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more; nothing was written.
        sqlalchemy.exc.DBAPIError: Postgres did not answer, or a lock was not to be had; roll back.

    """
    batch = Batch(connection, mappings, phase, Outcome())
    await lock_and_check(connection, mappings.in_container(container), phase)
    counted: dict[EntityMapping[Any], list[Change]] = {}
    for mapping, of_type in by_type(batch, container, documents).items():
        unusable: list[Unusable] = []
        changes = list(changes_of(mapping, of_type, unusable).values())
        for one in unusable:
            await put_aside(batch, *one)
        counted[mapping] = [change for change in changes if counts(change, phase, barrier)]
        batch.outcome.ignored += len(changes) - len(counted[mapping])
    await lock_identities(connection, [change.identity for its in counted.values() for change in its])
    writes: list[Write] = []
    for mapping, its in counted.items():
        held = await read_held_of(batch, mapping, its, stamps_query)
        unknown = [change for change in its if change.identity in held and held[change.identity].stamp is None]
        batch.outcome.ignored += sum(1 for one in held.values() if one.stamp is not None)
        writes += [Write(mapping, change, Apply(stamp_of(change, barrier))) for change in unknown]
    if not await _insert(batch, barrier, writes):
        for write in writes:
            batch.outcome.ignored += not await _insert(batch, barrier, [write])
    return batch.outcome


async def _insert(batch: Batch, barrier: Barrier | None, writes: Sequence[Write]) -> bool:
    """Insert rows; if any of them lost a race, undo all of it and return False."""
    if not writes:
        return True
    before = batch.outcome.applied, batch.outcome.events, batch.outcome.dead_lettered
    attempt = await batch.connection.begin_nested()
    waiting = await carry_out(batch, writes)
    for one in waiting:
        await put_aside(batch, one.write.change.identity, one.reason, one.write.change.document)
    refused = batch.outcome.dead_lettered - before[2]
    inserted = 0
    for mapping in dict.fromkeys(write.mapping for write in writes):
        its = [write.change for write in writes if write.mapping is mapping]
        held = await read_held_of(batch, mapping, its, stamps_query)
        inserted += sum(
            1
            for change in its
            if (row := held[change.identity].live_row) is not None and row.stamp == stamp_of(change, barrier)
        )
    if inserted + refused == len(writes):
        await attempt.commit()
        return True
    await attempt.rollback()
    batch.outcome.applied, batch.outcome.events, batch.outcome.dead_lettered = before
    return False
