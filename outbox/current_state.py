"""Loads what is to be sent: of every document that a batch names, the state that Postgres holds now.

Messages are references, so a later state supersedes an earlier one before it was ever sent. Row and tombstone are read
in one statement per entity type, later than the batch was: what is read is at least as new as every message in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from core.content import load_exact
from core.cosmos.publish import Publish, Refused
from core.errors import DocumentRefusedError, PrimaryMovedError
from core.postgres.failures import describe, driver_error, is_documents_fault
from core.postgres.held import Held, HeldRow, read_held
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow


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
    connection: AsyncConnection, mappings: Mappings, identities: Iterable[Identity], phase: PhaseRow
) -> Loaded:
    """Load the current state of documents.

    Args:
        connection: in autocommit.
        mappings: of everything in the log.
        identities: each once.
        phase: as it was when the batch was read.

    Raises:
        PrimaryMovedError: phase or epoch is another by now, so what was loaded is not this primary's.
        MappingError: a message is of an entity type that this process has no mapping for; nothing is skipped.
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    by_entity: dict[str, list[Identity]] = {}
    loaded = Loaded(phase.epoch)
    for identity in identities:
        try:
            load_exact(identity.partition_key)
        except DocumentRefusedError as error:  # Python would round it, and then find no row: a silent loss
            loaded.refused[identity] = Refused(None, f"the partition key: {error}")
        else:
            by_entity.setdefault(identity.entity, []).append(identity)
    for entity, of_entity in by_entity.items():
        mapping = mappings.named(entity)
        for held in await _read(connection, mapping, of_entity, loaded):
            _take(mapping, held, loaded)
    # Epochs only grow: if it is the same after the rows were read, it was the same while they were.
    now = await read_phase(connection)
    if (now.phase, now.epoch) != (phase.phase, phase.epoch):
        msg = f"epoch {now.epoch} was opened while a batch of epoch {phase.epoch} was loaded"
        raise PrimaryMovedError(msg)
    return loaded


def publish_row(mapping: EntityMapping[Any], held: Held, row: HeldRow, loaded: Loaded) -> None:
    """Add a row under its own stamp, or its refusal if no document can be made of it."""
    try:
        content = row.document(mapping)
    except DocumentRefusedError as error:
        loaded.refused[held.identity] = Refused(None, str(error))
    except Exception as error:  # noqa: BLE001 - the validators of a user's model run here and may raise anything
        reason = f"the row cannot be read by its model ({type(error).__name__})"
        loaded.refused[held.identity] = Refused(None, reason)
    else:
        loaded.publish.append(Publish(held.identity, row.stamp, content, row.taken_etag, loaded_in=loaded.epoch))


def _take(mapping: EntityMapping[Any], held: Held, loaded: Loaded) -> None:
    if held.live_row is not None:
        publish_row(mapping, held, held.live_row, loaded)
    elif held.row is not None:
        loaded.buried.setdefault(mapping, []).append(Buried(held, held.row))
    elif held.tombstone is not None:
        tombstone = held.tombstone
        loaded.publish.append(
            Publish(held.identity, tombstone.stamp, None, tombstone.taken_etag, loaded_in=loaded.epoch)
        )


async def _read(
    connection: AsyncConnection, mapping: EntityMapping[Any], identities: Sequence[Identity], loaded: Loaded
) -> list[Held]:
    """Read what is held; a key that the statement cannot take is found by halving, and refused alone."""
    try:
        return await read_held(connection, mapping, identities)
    except (DBAPIError, DocumentRefusedError, TypeError, ValueError) as error:
        cause = driver_error(error)
        if isinstance(error, DBAPIError) and not is_documents_fault(error):
            raise
        if len(identities) == 1:
            reason = describe(cause) if cause is not None else type(error).__name__
            loaded.refused[identities[0]] = Refused(None, f"the key cannot be read back: {reason}")
            return []
    half = len(identities) // 2
    return [
        *await _read(connection, mapping, identities[:half], loaded),
        *await _read(connection, mapping, identities[half:], loaded),
    ]
