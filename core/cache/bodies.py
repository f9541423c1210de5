"""Spells what an entry holds, and reads it with the distrust that something in a shared Redis deserves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from core.content import dump
from core.entity import Entity, Loaded, loaded, mark_loaded
from core.errors import CrossfeedError
from core.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.lookup import Lookup
    from core.mapping import EntityMapping
    from core.stamp import Stamp

T = TypeVar("T", bound=Entity)

LONGEST: Final = 512 * 1024
"""Bytes of the largest body that is kept: what is larger would hold up whoever shares the connection."""


class UnreadableEntryError(Exception):
    """An entry is none of ours, or not of this key."""


def entity_body(mapping: EntityMapping[T], entity: T) -> tuple[Stamp, bytes] | None:
    """Return stamp and body of an entity that was loaded; None if it cannot be kept."""
    state = loaded(entity)
    if state is None or not state.trusted:
        return None
    try:
        kept = {"document": mapping.document(entity), "etag": state.etag, "carried": state.carried}
        body = dump(kept).encode()
    except (CrossfeedError, ValueError):  # it was written by raw SQL, and no repository could write it
        return None
    return (state.stamp, body) if len(body) <= LONGEST else None


def entity_of(mapping: EntityMapping[T], identity: Identity, stamp: Stamp | None, body: bytes) -> T:
    """Return the entity of a body, as the repository returned it that loaded it.

    Raises:
        UnreadableEntryError: it is something else.

    """
    try:
        kept = json.loads(body)
        document, etag, carried = kept["document"], kept["etag"], kept["carried"]
        entity = mapping.entity(document)
        fits = stamp is not None and mapping.identity(document) == identity and _is_state(etag, carried)
    except (CrossfeedError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnreadableEntryError from error
    if stamp is None or not fits:
        raise UnreadableEntryError
    mark_loaded(entity, Loaded(identity, stamp, etag, tuple(carried), trusted=True))
    return entity


def _is_state(etag: Any, carried: Any) -> bool:  # noqa: ANN401 - any JSON value
    if not isinstance(carried, list) or not all(isinstance(event, dict) for event in carried):
        return False
    return etag is None or isinstance(etag, str)


def pointer_body(identity: Identity) -> bytes:
    """Return the body of a look-up's entry."""
    return json.dumps([identity.partition_key, identity.id]).encode()


def pointer_of(mapping: EntityMapping[Any], body: bytes) -> Identity:
    """Return whom a look-up's entry names.

    Raises:
        UnreadableEntryError: it is something else.

    """
    try:
        partition_key, id_ = json.loads(body)
        identity = Identity(mapping.name, partition_key, id_)
        fits = identity == mapping.identity_of(identity.parts, id_) and identity.can_be_stored
    except (CrossfeedError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableEntryError from error
    if not fits:
        raise UnreadableEntryError
    return identity


def values_of(mapping: EntityMapping[T], entity: T) -> tuple[object, ...]:
    """Return the values by which an entity is looked up, in the order of the mapping's look-ups."""
    return tuple(getattr(entity, lookup.field) for lookup in mapping.lookups)


def touched(mapping: EntityMapping[Any], values: tuple[object, ...]) -> Iterator[tuple[Lookup, str]]:
    """Yield the look-ups that values may answer, each with the value's spelling."""
    for lookup, value in zip(mapping.lookups, values, strict=True):
        spelled = lookup.touched(value)
        if spelled is not None:
            yield lookup, spelled
