"""The guarded write to Postgres: the only way in which mirror, backfill and repair write mapped tables.

One READ COMMITTED transaction, the caller's: the mapped tables are locked as the flip locks them, then phase and epoch
are read afresh (a mirror that slept through a switch must not write), then the identities are locked in order, then
what is held is read: all that in one go, while the hashes of the documents are computed here. Only then is anything
decided (core.postgres.authority) or written.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog

from core.envelope import is_internal
from core.errors import DocumentRefusedError, PrimaryMovedError
from core.identity import Identity, is_readable_id
from core.postgres.authority import Change
from core.postgres.departures import with_departures
from core.postgres.engine import fetch
from core.postgres.mirror_parking import MirrorPatience, park
from core.postgres.mirrored_batch import Batch, DocumentReader, FeedBatch, Outcome, Write
from core.postgres.mirrored_judging import Opening, judge
from core.postgres.mirrored_writing import carry_out, put_aside
from core.postgres.names import table_name, text_array
from core.postgres.phases import READ_PHASE, phase_of
from core.postgres.pipeline import pipelined
from core.stamp import is_later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.pipeline import Answer, Statement

log = structlog.get_logger()

Unusable = tuple[Identity, str, "Document"]
"""As much of its identity as can be told, why that is none, and the document."""

_LOCK_IDENTITIES = """
    SELECT count(pg_advisory_xact_lock(key)) FROM (
        SELECT DISTINCT hashtextextended(identity, 0) AS key FROM unnest(%(identities)s::text[]) AS identity ORDER BY 1
    ) AS keys
"""


async def apply_documents(  # noqa: PLR0913, PLR0917 - the facts of one guarded write
    connection: AsyncConnection,
    mappings: Mappings,
    container: str,
    documents: Sequence[Document],
    phase: PhaseRow,
    reader: DocumentReader,
    *,
    patience: MirrorPatience = MirrorPatience(),  # noqa: B008 - immutable
    clock: Callable[[], float] = time.time,
    shown: list[Change] | None = None,
) -> Outcome:
    """Apply documents of one container, as the change feed or a backfill showed them, in the caller's transaction.

    Redelivery, reordering and duplicates are harmless. A document that cannot be applied becomes a dead letter in
    the same transaction, one that only another document's state keeps out is parked (core.postgres.mirror_retry tries
    it again); the others are applied.

    Args:
        connection: in a READ COMMITTED transaction without savepoints, which the caller commits afterwards.
        mappings: all mappings of the process.
        container: the container's name.
        documents: with their system properties, in feed order.
        phase: the phase row that the caller read before it read the documents.
        reader: where the change alone does not say what is current.
        patience: how soon what is parked is tried again.
        clock: seconds since 1970.
        shown: the newest change of each document is added to it, for whoever wants to know what was shown.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more; nothing was written.
        StoreUnavailableError: a point read was older than the change that asked for it; repeat.

    """
    types = mappings.in_container(container)
    batch = FeedBatch(connection, mappings, phase, Outcome(), reader, clock)
    sorted_out = by_type(batch, container, documents)
    unusable: list[Unusable] = []
    changes = {
        mapping: changes_of(mapping, sorted_out[mapping], unusable) for mapping in types if mapping in sorted_out
    }
    changes = with_departures(mappings, container, documents, changes)
    if shown is not None:
        shown.extend(change for found in changes.values() for change in found.values())
    opening: Opening | None = _opening(types, phase, [identity for found in changes.values() for identity in found])
    writes: list[Write] = []
    for mapping, found in changes.items():
        if found:
            writes += await judge(batch, mapping, found, opening)
            opening = None
    if opening is not None:
        await lock_and_check(connection, types, phase)
    for identity, reason, document in unusable:
        await put_aside(batch, identity, reason, document)
    if waiting := await carry_out(batch, writes):
        await park(connection, [(one.write.change, one.reason) for one in waiting], patience)
        batch.outcome.parked += len(waiting)
        log.info(
            "mirror.parked",
            container=container,
            documents=len(waiting),
            reasons=sorted({one.reason for one in waiting}),
        )
    return batch.outcome


async def lock_and_check(connection: AsyncConnection, mappings: Iterable[EntityMapping[Any]], phase: PhaseRow) -> None:
    """Lock the tables of mappings as the flip locks them, then see that phase and epoch are still `phase`.

    Whatever writes mapped tables under the mirror setting begins its transaction with this.

    Args:
        connection: in a READ COMMITTED transaction that holds no lock yet.
        mappings: of the tables to be written, in the order of `Mappings`.
        phase: what was read before the documents were.

    Raises:
        PrimaryMovedError: the phase or the epoch is not `phase` any more.

    """
    async with pipelined(connection) as pipeline:
        answers = [await pipeline.exec_driver_sql(*statement) for statement in _locking_tables(mappings)]
    _check_phase(await answers[-1].fetchall(), phase)


def _opening(mappings: Iterable[EntityMapping[Any]], phase: PhaseRow, identities: Iterable[Identity]) -> Opening:
    """What `lock_and_check` and `lock_identities` do, for the pipeline that reads what is held."""
    tables = _locking_tables(mappings)

    async def check(answers: Sequence[Answer]) -> None:
        _check_phase(await answers[len(tables) - 1].fetchall(), phase)

    return Opening((*tables, _locking(identities)), check)


def _locking_tables(mappings: Iterable[EntityMapping[Any]]) -> tuple[Statement, ...]:
    """Return what locks the tables, and what reads the phase with a snapshot that is younger than the lock."""
    tables = [table for mapping in mappings for table in (mapping.table, *(child.table for child in mapping.children))]
    return (f"LOCK TABLE {', '.join(map(table_name, tables))} IN ROW EXCLUSIVE MODE",), (READ_PHASE,)


def _check_phase(rows: Sequence[tuple[Any, ...]], phase: PhaseRow) -> None:
    now = phase_of(rows)
    if (now.phase, now.epoch) != (phase.phase, phase.epoch):
        msg = (
            f"the batch was read in phase {phase.phase.label}, epoch {phase.epoch};"
            f" it is {now.phase.label}, epoch {now.epoch} now"
        )
        raise PrimaryMovedError(msg)


async def lock_identities(connection: AsyncConnection, identities: Iterable[Identity]) -> None:
    """Lock identities in one order until the transaction ends, before its first savepoint and before they are read."""
    await fetch(connection, *_locking(identities))


def _locking(identities: Iterable[Identity]) -> tuple[str, dict[str, Any]]:
    return _LOCK_IDENTITIES, {"identities": text_array(map(str, identities))}


def by_type(batch: Batch, container: str, documents: Sequence[Document]) -> dict[EntityMapping[Any], list[Document]]:
    """Sort documents by their mapping; what is Crossfeed's own, or of a type that nobody mapped, is ignored."""
    found: dict[EntityMapping[Any], list[Document]] = {}
    for document in documents:
        mapping = batch.mappings.mapping_of(container, document)
        if mapping is not None:
            found.setdefault(mapping, []).append(document)
        elif is_internal(document):
            batch.outcome.ignored += 1
        else:
            batch.outcome.unmapped += 1
            say_unmapped(container)
    return found


@cache
def say_unmapped(container: str) -> None:
    """Log that a container holds documents of a type that nobody mapped, once per process."""
    log.info("mirror.unmapped", container=container)


def changes_of(
    mapping: EntityMapping[Any], documents: Sequence[Document], unusable: list[Unusable]
) -> dict[Identity, Change]:
    """Return the newest change of each identity; add what has no usable one to `unusable`."""
    changes: dict[Identity, Change] = {}
    for document in documents:
        try:
            change = Change.of(_storable_identity(mapping, document), document)
        except DocumentRefusedError as error:
            identity = Identity(mapping.name, "", str(document.get("id", "")))
            unusable.append((identity, str(error), document))
            continue
        known = changes.pop(change.identity, None)
        changes[change.identity] = change if known is None or is_later(change.position, known.position) else known
    return changes


def _storable_identity(mapping: EntityMapping[Any], document: Document) -> Identity:
    identity = mapping.identity(document)
    if not identity.can_be_stored:
        msg = "the key holds a NUL character or half of a surrogate pair, which Postgres cannot store"
        raise DocumentRefusedError(msg)
    if not is_readable_id(identity.id):
        msg = "the id is empty, dots or holds '/': nobody can read such a document by its key, nor write it"
        raise DocumentRefusedError(msg)
    return identity
