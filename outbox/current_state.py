"""Loads what is to be sent: of every document that a batch names, the state that Postgres holds now.

Messages are references, so a later state supersedes an earlier one before it was ever sent. Row and tombstone are read
in one statement per entity type, later than the batch was: what is read is at least as new as every message in it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from core.content import load_exact
from core.cosmos.publish import Publish, Refused, publish_state
from core.errors import DocumentRefusedError, PrimaryMovedError
from core.postgres.failures import describe, driver_error, is_documents_fault
from core.postgres.held import Held, HeldRow, HeldTombstone, Record, held_of, read_records
from core.postgres.phases import read_phase
from core.shortcut import Shortcut, shortcut_of
from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow


_PART = 500
"""How many documents one statement reads."""
_SLICE = 50
"""How many documents are made before other tasks get their turn."""


@dataclass(frozen=True, slots=True)
class Buried:
    """A row that is not newer than its own tombstone, because a delete and an insert raced; it must be lifted first."""

    held: Held
    row: HeldRow


@dataclass(slots=True)
class Loaded:
    """The current state of a batch's documents: what to send, what cannot be sent, what to lift before it is sent.

    All of it is of one `epoch`. Of an identity in none of them nothing is held, neither row nor tombstone; that is no
    delete.
    """

    epoch: int
    publish: list[Publish] = field(default_factory=list)
    refused: dict[Identity, Refused] = field(default_factory=dict)
    buried: dict[EntityMapping[Any], list[Buried]] = field(default_factory=dict)


async def load(
    connection: AsyncConnection,
    mappings: Mappings,
    identities: Iterable[Identity],
    phase: PhaseRow,
    tombstone_ttl_s: int,
) -> Loaded:
    """Load the current state of documents.

    Args:
        connection: in autocommit.
        mappings: of everything in the log.
        identities: each once.
        phase: as it was when the batch was read.
        tombstone_ttl_s: how long the documents of deleted ones will live, in seconds.

    Raises:
        PrimaryMovedError: phase or epoch is another by now, so what was loaded is not this primary's.
        MappingError: a message is of an entity type that this process has no mapping for; nothing is skipped.
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    by_entity: dict[str, list[Identity]] = {}
    loaded = Loaded(phase.epoch)
    for identity in identities:
        if identity.has_text_key or _is_exact(identity, loaded):
            by_entity.setdefault(identity.entity, []).append(identity)
    for entity, of_entity in by_entity.items():
        await _load_all(connection, mappings.named(entity), of_entity, loaded, tombstone_ttl_s)
    # Epochs only grow: if it is the same after the rows were read, it was the same while they were.
    now = await read_phase(connection)
    if (now.phase, now.epoch) != (phase.phase, phase.epoch):
        msg = f"epoch {now.epoch} was opened while a batch of epoch {phase.epoch} was loaded"
        raise PrimaryMovedError(msg)
    return loaded


def _is_exact(identity: Identity, loaded: Loaded) -> bool:
    try:
        load_exact(identity.partition_key)
    # Python would round it, and then find no row: a silent loss.
    except (DocumentRefusedError, JSONDecodeError) as error:
        loaded.refused[identity] = Refused(None, f"the partition key: {error}")
        return False
    return True


def publish_row(mapping: EntityMapping[Any], held: Held, row: HeldRow, loaded: Loaded) -> None:
    """Add a row under its own stamp, or its refusal if no document can be made of it."""
    try:
        content = row.document(mapping)
        item = publish_state(
            mapping, held.identity, row.stamp, content, taken_etag=row.taken_etag, loaded_in=loaded.epoch
        )
    except DocumentRefusedError as error:
        loaded.refused[held.identity] = Refused(None, str(error))
    except Exception as error:  # noqa: BLE001 - the validators of a user's model run here and may raise anything
        reason = f"the row cannot be read by its model ({type(error).__name__})"
        loaded.refused[held.identity] = Refused(None, reason)
    else:
        loaded.publish.append(item)


async def _load_all(
    connection: AsyncConnection,
    mapping: EntityMapping[Any],
    identities: Sequence[Identity],
    loaded: Loaded,
    tombstone_ttl_s: int,
) -> None:
    """Load the documents of one mapping: while some are made, Postgres reads the next."""
    quick = _quick(shortcut_of(mapping), loaded)
    parts = [identities[start : start + _PART] for start in range(0, len(identities), _PART)]
    reading = asyncio.ensure_future(_read(connection, mapping, parts[0], loaded))
    try:
        for following in (*parts[1:], None):
            found = await reading
            if following is not None:
                reading = asyncio.ensure_future(_read(connection, mapping, following, loaded))
            for number, (identity, record) in enumerate(found):
                if number % _SLICE == 0:
                    await asyncio.sleep(0)
                if not quick(identity, record):
                    _take(mapping, held_of(mapping, identity, record), loaded, tombstone_ttl_s)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _quick(shortcut: Shortcut | None, loaded: Loaded) -> Callable[[Identity, Record], bool]:
    """Return the function that adds an ordinary row without a tombstone and says whether it was one."""
    if shortcut is None:
        return lambda _identity, _record: False
    make, add, epoch = shortcut.document, loaded.publish.append, loaded.epoch

    def take(identity: Identity, record: Record) -> bool:
        row_json, buried_epoch = record[5:7]
        if row_json is None or buried_epoch is not None:
            return False
        stamp = Stamp(record[0], record[1])
        document = make(row_json, identity, stamp)
        if document is None:
            return False
        add(Publish(identity, stamp, document, record[2], deleted=False, loaded_in=epoch))
        return True

    return take


def _take(mapping: EntityMapping[Any], held: Held, loaded: Loaded, tombstone_ttl_s: int) -> None:
    if held.live_row is not None:
        publish_row(mapping, held, held.live_row, loaded)
    elif held.row is not None:
        loaded.buried.setdefault(mapping, []).append(Buried(held, held.row))
    elif held.tombstone is not None:
        _publish_tombstone(mapping, held.identity, held.tombstone, loaded, tombstone_ttl_s)


def _publish_tombstone(
    mapping: EntityMapping[Any], identity: Identity, tombstone: HeldTombstone, loaded: Loaded, ttl_s: int
) -> None:
    try:
        item = publish_state(
            mapping,
            identity,
            tombstone.stamp,
            None,
            taken_etag=tombstone.taken_etag,
            loaded_in=loaded.epoch,
            tombstone_ttl_s=ttl_s,
        )
    except DocumentRefusedError as error:
        loaded.refused[identity] = Refused(None, str(error))
    else:
        loaded.publish.append(item)


async def _read(
    connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity], loaded: Loaded
) -> list[tuple[Identity, Record]]:
    """Read what is held; a key that the statement cannot take is found by halving, and refused alone."""
    try:
        return list(zip(identities, await read_records(connection, mapping, identities), strict=True))
    except (DBAPIError, DocumentRefusedError) as error:
        cause = driver_error(error)
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if len(identities) == 1:
            reason = describe(cause) if cause is not None else str(error)
            loaded.refused[identities[0]] = Refused(None, f"the key cannot be read back: {reason}")
            return []
    half = len(identities) // 2
    return [
        *await _read(connection, mapping, identities[:half], loaded),
        *await _read(connection, mapping, identities[half:], loaded),
    ]
