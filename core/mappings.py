"""Keeps all mappings of a process, and finds the one that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from core.entity import Entity
from core.errors import MappingError
from core.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from core.mapping import EntityMapping

T = TypeVar("T", bound=Entity)


class Mappings:
    """All mappings of a process, by entity type, model and container; the order is the order of locks.

    Raises:
        MappingError: none, or two with the same name, model, table or container.

    """

    def __init__(self, mappings: Iterable[EntityMapping[Any]]) -> None:
        all_ = sorted(mappings, key=lambda item: item.name)
        self._by_name = {mapping.name: mapping for mapping in all_}
        if not all_:
            msg = "no mappings were given"
            raise MappingError(msg)
        for what, values in (
            ("name", [mapping.name for mapping in all_]),
            ("model", [mapping.model.__qualname__ for mapping in all_]),
            ("table", [mapping.table.fullname for mapping in all_]),
            ("container", [mapping.container for mapping in all_]),
        ):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                msg = f"two mappings have the same {what}: {', '.join(twice)}"
                raise MappingError(msg)

    def __iter__(self) -> Iterator[EntityMapping[Any]]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str) -> EntityMapping[Any]:
        """Return the mapping of an entity type.

        Raises:
            MappingError: there is none; the message lists what there is.

        """
        if name not in self._by_name:
            msg = f"no mapping is called {name!r}; there are {', '.join(self._by_name)}"
            raise MappingError(msg)
        return self._by_name[name]

    def of(self, model: type[T]) -> EntityMapping[T]:
        """Return the mapping of an entity class.

        Raises:
            MappingError: there is none.

        """
        for mapping in self:
            if mapping.model is model:
                return mapping
        msg = f"{model.__name__} has no mapping"
        raise MappingError(msg)

    def identity_of(self, of: Entity | Identity) -> Identity:
        """Return the identity that is meant: of an entity as it is now, or one that is given.

        Raises:
            MappingError: its type has no mapping.
            DocumentRefusedError: the entity has no identity that both stores can hold.

        """
        if isinstance(of, Identity):
            self.named(of.entity)
            return of
        mapping = self.of(type(of))
        return mapping.identity(mapping.document(of))

    def of_container(self, container: str) -> EntityMapping[Any]:
        """Return the mapping of a container.

        Raises:
            MappingError: there is none.

        """
        for mapping in self:
            if mapping.container == container:
                return mapping
        msg = f"container {container!r} has no mapping"
        raise MappingError(msg)
