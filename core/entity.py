"""The base of domain entities: a pydantic model that keeps properties it does not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, PrivateAttr

if TYPE_CHECKING:
    from core.content import Document
    from core.identity import Identity
    from core.stamp import Stamp


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a repository remembers of the state it read: for optimistic concurrency, and the events it carried.

    `trusted` says that the stamp is this state's place in the order, which a foreign writer's copy of one is not.
    """

    identity: Identity
    stamp: Stamp
    etag: str | None
    carried: tuple[Document, ...] = field(default=(), repr=False)
    trusted: bool = False


class Entity(BaseModel):
    """One aggregate: `id` is text and never reshaped; unknown properties of the stored document survive.

    Fields are populated by name in code and by alias from documents. Give the model an `alias_generator` where the
    stored documents are PascalCase or camelCase.
    """

    model_config = ConfigDict(
        extra="allow",
        validate_by_name=True,
        validate_by_alias=True,
        ser_json_inf_nan="constants",  # else NaN in an unknown property would be written as null
    )

    id: str

    _loaded: Loaded | None = PrivateAttr(default=None)
    _known_by: tuple[object, ...] = PrivateAttr(default=())


def loaded(entity: Entity) -> Loaded | None:
    """Return what the repository that read `entity` remembered, or None for a new one."""
    return entity._loaded  # noqa: SLF001 - the entity's own package


def mark_loaded(entity: Entity, state: Loaded | None) -> None:
    """Remember the state that was read or written last."""
    entity._loaded = state  # noqa: SLF001 - the entity's own package


def known_by(entity: Entity) -> tuple[object, ...]:
    """Return the values by which it was looked up when it was read or written last; none if nobody kept them."""
    return entity._known_by  # noqa: SLF001 - the entity's own package


def mark_known_by(entity: Entity, values: tuple[object, ...]) -> None:
    """Remember the values by which it is looked up."""
    entity._known_by = values  # noqa: SLF001 - the entity's own package


def read_key(entity: Entity) -> str:
    """Return the partition key, as text, of an entity that was read: entities with one id are in the order of it."""
    state = loaded(entity)
    return "" if state is None else state.identity.partition_key
