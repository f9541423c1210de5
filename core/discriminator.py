"""Tells documents of several types in one container apart, by the property in which each names its type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.content import ENVELOPE, SYSTEM_PROPERTIES
from core.errors import DocumentRefusedError, MappingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.content import Document

_TAKEN: Final = SYSTEM_PROPERTIES | {ENVELOPE, "id", "ttl"}


@dataclass(frozen=True, slots=True)
class Discriminator:
    """How the documents of one type say so: one of the properties holds one of the values.

    Two conventions may stand side by side (`Discriminator` of Entity Framework, `$type` of Newtonsoft.Json). A document
    that names two types of its container by two properties is of the type that the earlier property names.

    Args:
        properties: names of top-level properties, the same and in the same order for all types of a container. A
            document that has no type yet gets it in the first.
        values: the texts that mean this type; the first is the one that new documents get.

    Raises:
        MappingError: there is no property or no value, or it is empty, or the property has another meaning.

    """

    properties: tuple[str, ...]
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        for what, texts in (("properties", self.properties), ("values", self.values)):
            if not _are_texts(texts):
                msg = f"a discriminator's {what} must be a tuple of at least one text, none of them empty"
                raise MappingError(msg)
        if taken := sorted(_TAKEN.intersection(self.properties)):
            msg = f"{', '.join(taken)} cannot say of which type a document is"
            raise MappingError(msg)

    def rank(self, document: Mapping[str, Any]) -> int | None:
        """Return the place of the first property that names this type, None where none does."""
        for place, name in enumerate(self.properties):
            value = document.get(name)
            if isinstance(value, str) and value in self.values:
                return place
        return None

    def names_a_type(self, document: Mapping[str, Any]) -> bool:
        """Whether a document names any type at all, this or another."""
        return any(isinstance(value := document.get(name), str) and value for name in self.properties)

    def put(self, document: Document) -> None:
        """Let a document name this type, unless it does.

        Raises:
            DocumentRefusedError: it names another.

        """
        if self.rank(document) is not None:
            return
        first = self.properties[0]
        if document.get(first) not in [None, ""]:
            msg = f"the document's {first} names another type than {self.values[0]}"
            raise DocumentRefusedError(msg)
        document[first] = self.values[0]


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(text, str) and text for text in value)
