"""Says in which properties a row's document differs from the one in Cosmos DB."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from core.content import content_of
from core.errors import DocumentRefusedError
from core.projection import same_json

if TYPE_CHECKING:
    from core.content import Document
    from core.mapping import EntityMapping
    from core.postgres.held import HeldRow

UNREADABLE = ("(the row does not fit its model)",)
"""Instead of property names, where no document can be made of the row."""


def differing_fields(mapping: EntityMapping[Any], row: HeldRow, document: Document) -> tuple[str, ...]:
    """Return the names of the properties that differ, in their order, none if the contents are the same.

    A property that only the row has is no difference where it holds what the model fills in: the model got another
    field since, and the document was not written. Nor is the type that documents name who share their container.

    Args:
        mapping: of both.
        row: with its columns.
        document: from Cosmos DB.

    """
    try:
        ours = row.document(mapping)
    except DocumentRefusedError:
        return UNREADABLE
    except Exception:  # noqa: BLE001 - the validators of a user's model run here and may raise anything
        return UNREADABLE
    found = content_of(document)
    filled = _filled_in(mapping)
    return tuple(
        name
        for name in sorted(ours.keys() | found.keys())
        if not (
            same_json(ours[name], found[name])
            if name in ours and name in found
            else name in ours and name in filled and same_json(ours[name], filled[name])
        )
    )


@lru_cache(maxsize=256)
def _filled_in(mapping: EntityMapping[Any]) -> dict[str, Any]:
    """Return what a model, or the mapping, puts into a property that a document leaves out."""
    filled: dict[str, Any] = {}
    for name, field in mapping.model.model_fields.items():
        if field.default_factory_takes_validated_data:
            continue
        default = field.get_default(call_default_factory=True)
        if default is not PydanticUndefined:
            filled[mapping.alias(name)] = to_jsonable_python(default)
    if mapping.discriminator is not None:
        filled[mapping.discriminator.properties[0]] = mapping.discriminator.values[0]
    return filled
