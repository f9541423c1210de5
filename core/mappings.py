"""Keeps all mappings of a process, and finds the one that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from core.entity import Entity
from core.errors import MappingError
from core.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from core.content import Document
    from core.mapping import EntityMapping

T = TypeVar("T", bound=Entity)


class Mappings:
    """All mappings of a process, by entity type, model and container; the order is the order of locks.

    Raises:
        MappingError: none, or two with the same name, model or table; or two in one container of which one has no
            discriminator, or that disagree on the partition key, or of which a document could be either.

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
        ):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                msg = f"two mappings have the same {what}: {', '.join(twice)}"
                raise MappingError(msg)
        self._by_container: dict[str, tuple[EntityMapping[Any], ...]] = {}
        for mapping in all_:
            sharing = self._by_container.get(mapping.container, ())
            for other in sharing:
                _check_together(other, mapping)
            self._by_container[mapping.container] = (*sharing, mapping)

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

    @property
    def containers(self) -> tuple[str, ...]:
        """The names of all mapped containers, each once."""
        return tuple(self._by_container)

    def in_container(self, container: str) -> tuple[EntityMapping[Any], ...]:
        """Return the mappings of a container, in the order of locks.

        Raises:
            MappingError: there is none.

        """
        if container not in self._by_container:
            msg = f"container {container!r} has no mapping"
            raise MappingError(msg)
        return self._by_container[container]

    def beside(self, mapping: EntityMapping[Any]) -> tuple[EntityMapping[Any], ...]:
        """Return the other mappings of a mapping's container."""
        return tuple(other for other in self.in_container(mapping.container) if other is not mapping)

    def rivals(self, mapping: EntityMapping[Any]) -> tuple[str, ...]:
        """Return the texts that mean another type in a mapping's container."""
        kinds = (other.discriminator for other in self.beside(mapping))
        return tuple(value for kind in kinds if kind is not None for value in kind.values)

    def mapping_of(self, container: str, document: Mapping[str, Any]) -> EntityMapping[Any] | None:
        """Return the mapping that a document of a container belongs to, None where it is of a type that nobody mapped.

        Crossfeed's own documents name no type: they belong to a container's only mapping, or to none.

        Raises:
            MappingError: the container has no mapping.

        """
        found: tuple[int, EntityMapping[Any]] | None = None
        for mapping in self.in_container(container):
            if mapping.discriminator is None:
                return mapping
            rank = mapping.discriminator.rank(document)
            if rank is not None and (found is None or rank < found[0]):
                found = rank, mapping
        return None if found is None else found[1]

    def by_type(self, container: str, documents: Sequence[Document]) -> dict[EntityMapping[Any], list[Document]]:
        """Sort documents of a container by mapping, in their order; types that nobody mapped are left out.

        Raises:
            MappingError: the container has no mapping.

        """
        sorted_: dict[EntityMapping[Any], list[Document]] = {}
        for document in documents:
            mapping = self.mapping_of(container, document)
            if mapping is not None:
                sorted_.setdefault(mapping, []).append(document)
        return sorted_


def _check_together(one: EntityMapping[Any], other: EntityMapping[Any]) -> None:
    """Refuse two mappings that cannot share their container."""
    both = f"mappings {one.name} and {other.name} share the container {one.container!r}"
    if one.discriminator is None or other.discriminator is None:
        lacking = one.name if one.discriminator is None else other.name
        msg = f"{both}, but {lacking} has no discriminator=, so it takes every document"
        raise MappingError(msg)
    if one.paths != other.paths:
        msg = f"{both}, but disagree on its partition key: {', '.join(one.paths)} and {', '.join(other.paths)}"
        raise MappingError(msg)
    if one.discriminator.properties != other.discriminator.properties:
        msg = f"{both}, but look for the type in different properties, or in another order"
        raise MappingError(msg)
    if twice := sorted(set(one.discriminator.values).intersection(other.discriminator.values)):
        msg = f"{both}, and both claim the type {', '.join(map(repr, twice))}"
        raise MappingError(msg)
    if sorted(one.unique_keys) != sorted(other.unique_keys):
        msg = f"{both}, but disagree on its unique keys; name all of them in unique_keys= of each"
        raise MappingError(msg)
