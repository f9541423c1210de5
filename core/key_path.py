"""One path of a container, `/address/city`: reads and writes the property of a document that it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import DocumentRefusedError, MappingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.content import Document
    from core.identity import KeyPart


@dataclass(frozen=True, slots=True)
class KeyPath:
    """A partition key path or a unique key path; `owner` is the mapping that errors name."""

    owner: str
    path: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, owner: str, path: str) -> KeyPath:
        """Take a path apart.

        Raises:
            MappingError: it is none.

        """
        segments = tuple(path.split("/")[1:])
        if not path.startswith("/") or not all(segments):
            msg = f"mapping {owner}: {path!r} is no path; it must look like '/accountId'"
            raise MappingError(msg)
        return cls(owner, path, segments)

    def key_part(self, document: Mapping[str, Any]) -> KeyPart:
        """Return the partition key level of a document.

        Raises:
            DocumentRefusedError: there is none, or it is neither a string nor a number, boolean or null.

        """
        value: Any = document
        for segment in self.segments:
            value = value.get(segment, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING:
            msg = f"{self.owner}: the document has no partition key at {self.path}"
            raise DocumentRefusedError(msg)
        if not (value is None or isinstance(value, str | int | float | bool)):
            msg = f"{self.owner}: the partition key at {self.path} is no string, number, boolean or null"
            raise DocumentRefusedError(msg)
        return value

    def put(self, document: Document, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """Set the property, making the objects above it."""
        *above, last = self.segments
        for segment in above:
            document = document.setdefault(segment, {})
        document[last] = value


_MISSING = object()
