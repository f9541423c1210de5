"""Finds out which entities are gone because a document of another type stands in their place.

In a container of several types the key is still partition key and id alone. A document that becomes one of another
type, by a replace or by a delete and a create that the feed shows as one, is a delete of the one entity and a new state
of the other. The document that is there shows that the other one is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.envelope import is_internal
from core.errors import DocumentRefusedError
from core.postgres.authority import Change
from core.stamp import is_later

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings

Changes = dict["EntityMapping[Any]", dict["Identity", Change]]
"""The newest change of each identity, by type."""


def with_departures(mappings: Mappings, container: str, documents: Iterable[Document], changes: Changes) -> Changes:
    """Add, for each document, that no entity of another type of its container has its key.

    Where there was none, that means nothing (`decide` ignores it).

    Args:
        mappings: all mappings.
        container: the container's name.
        documents: what the feed showed of it.
        changes: what these documents say of the entities that they are.

    Returns:
        Both, in the order of `Mappings`; where a batch shows both of one identity, the newer one.

    """
    types = mappings.in_container(container)
    if types[0].discriminator is None:
        return changes
    found: Changes = {mapping: dict(changes.get(mapping, {})) for mapping in types}
    for document in documents:
        if is_internal(document):
            continue
        owner = mappings.mapping_of(container, document)
        for mapping in types:
            identity = _identity(mapping, document) if mapping is not owner else None
            if identity is None:
                continue
            change, known = Change.departed_from(identity, document), found[mapping].get(identity)
            if known is None or (change.position != known.position and is_later(change.position, known.position)):
                found[mapping][identity] = change
    return {mapping: its for mapping, its in found.items() if its}


def _identity(mapping: EntityMapping[Any], document: Document) -> Identity | None:
    """Return the identity that an entity in this document's place would have, None where it could have none."""
    try:
        identity = mapping.identity(document)
    except DocumentRefusedError:
        return None
    return identity if identity.can_be_stored else None
