"""Says how one entity lives in both stores: model, table, container and partition key."""

from __future__ import annotations

import hashlib
import typing
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import sqlalchemy as sa

from core.children import child_projection
from core.content import Document, check_content, content_of
from core.entity import Entity
from core.errors import DocumentRefusedError, MappingError
from core.identity import MAX_PARTITION_KEY_BYTES, Anywhere, Identity, KeyArgument, check_id
from core.key_path import KeyPath
from core.projection import EXTRA_COLUMN, SPELLING_COLUMN, Projection, Row, kept_empty_list, respell, same_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.children import ChildTable
    from core.discriminator import Discriminator
    from core.lookup import Lookup

T = TypeVar("T", bound=Entity)

MAX_KEY_LEVELS = 3
RESERVED_ID_PREFIX = "crossfeed-"
"""Ids that start so belong to Crossfeed's own documents in user containers."""


class EntityMapping(Generic[T]):
    """The mapping of one aggregate to one table and one container.

    Args:
        model: the entity's class.
        table: its SQLAlchemy table, with a primary key or unique constraint on exactly (partition key columns, id).
        container: the name of its Cosmos DB container.
        partition_key: the container's partition key path, `/accountId`; a tuple of up to three for hierarchical keys.
        name: the entity type in messages, tombstones and dead letters; the class name unless given.
        key_columns: the columns that hold the partition key's levels; found by the path unless given.
        body: the JSONB column for properties that have no column of their own; Crossfeed adds one unless given.
        children: tables of the aggregate below the root.
        unique_keys: the container's unique key paths, filled uniquely in tombstones.
        discriminator: how its documents name their type, where the container holds other types as well; without one
            the container is the mapping's alone.
        lookups: its look-ups that may be cached.

    Raises:
        MappingError: something does not fit; the message names the mapping, the place and the cure.

    """

    def __init__(  # noqa: PLR0913 - one keyword per fact of a mapping
        self,
        model: type[T],
        *,
        table: sa.Table,
        container: str,
        partition_key: str | tuple[str, ...],
        name: str | None = None,
        key_columns: tuple[str, ...] | None = None,
        body: str = EXTRA_COLUMN,
        children: Sequence[ChildTable] = (),
        unique_keys: Sequence[str] = (),
        discriminator: Discriminator | None = None,
        lookups: Sequence[Lookup] = (),
    ) -> None:
        self.model = model
        self.table = table
        self.container = container
        self.name = name or model.__name__
        self.paths = (partition_key,) if isinstance(partition_key, str) else tuple(partition_key)
        self.unique_keys = tuple(unique_keys)
        self.children = tuple(children)
        self.discriminator = discriminator
        self.lookups = tuple(lookups)
        self.projection = Projection(model, table, body)
        self._key_paths = [KeyPath.parse(self.name, path) for path in self.paths]
        self._unique_paths = [KeyPath.parse(self.name, path) for path in self.unique_keys]
        self.key_columns = key_columns or tuple(map(self._key_column, self._key_paths))
        self.child_projections = {
            child.field: child_projection(self.name, model, self.identity_columns, child) for child in self.children
        }
        self._check()

    @property
    def identity_columns(self) -> tuple[str, ...]:
        """The columns that are the identity: partition key levels, then `id`, each once."""
        return tuple(dict.fromkeys((*self.key_columns, "id")))

    @property
    def projected_columns(self) -> list[str]:
        """The columns that a document is rebuilt from: the model's, the key's and the rest's."""
        return list(dict.fromkeys((*self.projection.column_names, *self.key_columns)))

    @property
    def written_columns(self) -> list[str]:
        """The columns that a guarded write fills, without stamps: all of those but generated ones."""
        return [
            name
            for name in self.projected_columns
            if name not in self.table.columns or self.table.columns[name].computed is None
        ]

    def alias(self, field: str) -> str:
        """Return the document's property name for a field of the model.

        Raises:
            MappingError: the model has no such field.

        """
        info = self.model.model_fields.get(field)
        if info is None:
            self._fail(f"{self.model.__name__} has no field {field!r}")
        return info.serialization_alias or info.alias or field

    # -- documents and entities

    def document(self, entity: T) -> Document:
        """Return the entity's content as its stored document, checked for both stores.

        Raises:
            DocumentRefusedError: one of the stores cannot hold it, or a field holds what its type does not allow.

        """
        try:
            document = entity.model_dump(mode="json", by_alias=True, warnings="error")
        except ValueError:
            msg = f"{self.name}: the entity cannot be written as the JSON that its model describes"
            raise DocumentRefusedError(msg) from None  # pydantic quotes values
        self._name_type(document)
        self.check(document)
        return document

    def entity(self, document: Document) -> T:
        """Read an entity from its content (no system properties, none of ours).

        Raises:
            DocumentRefusedError: the document does not fit the model.

        """
        return typing.cast("T", self.projection.parse(document))

    def check(self, document: Document) -> None:
        """Refuse a document that one of the stores cannot hold, or whose id is reserved.

        Raises:
            DocumentRefusedError: with the place and the reason.

        """
        id_ = check_id(document.get("id"))
        if id_.startswith(RESERVED_ID_PREFIX):
            msg = f"{self.name}: ids that start with {RESERVED_ID_PREFIX!r} are reserved"
            raise DocumentRefusedError(msg)
        check_content(document)
        size = len(self.identity(document).partition_key.encode())
        if size > MAX_PARTITION_KEY_BYTES:
            msg = f"{self.name}: the partition key has {size} bytes; Cosmos DB takes {MAX_PARTITION_KEY_BYTES}"
            raise DocumentRefusedError(msg)

    def identity(self, document: Mapping[str, Any]) -> Identity:
        """Return the identity of a document.

        Raises:
            DocumentRefusedError: the id is not a string, or a partition key level is missing or not a scalar.

        """
        id_ = document.get("id")
        if not isinstance(id_, str):
            msg = f"{self.name}: the id must be a string, not {type(id_).__name__}"
            raise DocumentRefusedError(msg)
        return Identity.of(self.name, [path.key_part(document) for path in self._key_paths], id_)

    def identity_of(self, partition_key: KeyArgument, id_: str) -> Identity:
        """Return the identity with this partition key, a value or a value per level.

        Raises:
            DocumentRefusedError: the key has another number of levels.

        """
        if isinstance(partition_key, Anywhere):
            msg = f"{self.name}: an identity needs a partition key"
            raise DocumentRefusedError(msg)
        parts = [partition_key] if isinstance(partition_key, str | int | float | None) else list(partition_key)
        if len(parts) != len(self.paths):
            msg = f"{self.name}: the partition key has {len(self.paths)} levels, not {len(parts)}"
            raise DocumentRefusedError(msg)
        return Identity.of(self.name, parts, id_)

    # -- documents and rows

    def row(self, document: Document) -> Row:
        """Project a document to its row; children's rows stand under their table's name.

        Raises:
            DocumentRefusedError: the document does not fit the model, or its partition key is not the text or number
                that the model makes of it (which would be another identity).

        """
        row = self.projection.row(content_of(document))
        for path, column in zip(self._key_paths, self.key_columns, strict=True):
            part = path.key_part(document)
            if not same_json(row.setdefault(column, part), part):
                msg = f"{self.name}: the model reads the partition key at {path.path} as another value"
                raise DocumentRefusedError(msg)
        for child in self.children:
            projection = self.child_projections[child.field]
            alias = self.alias(child.field)
            items = document.get(alias) or []
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                msg = f"{self.name}: {alias} lives in a table of its own and must be a list of objects"
                raise DocumentRefusedError(msg)
            if not items:
                row[SPELLING_COLUMN] = (row[SPELLING_COLUMN] or {}) | {alias: kept_empty_list(document, alias)}
            row[child.table.name] = [
                {
                    **projection.row(item),
                    **dict(zip(child.parent, (row[column] for column in self.identity_columns), strict=True)),
                    child.position: position,
                }
                for position, item in enumerate(items)
            ]
            (row[self.projection.body] or {}).pop(alias, None)
        return row

    def document_of_row(self, row: Mapping[str, Any]) -> Document:
        """Rebuild the document of a row, as `to_json` gave it with the children under their table's name.

        Raises:
            DocumentRefusedError: the row does not fit the model.

        """
        document = self.projection.document(row)
        for child in self.children:
            projection = self.child_projections[child.field]
            items = sorted(row.get(child.table.name) or [], key=lambda item: item[child.position])
            alias = self.alias(child.field)
            document[alias] = [projection.document(item) for item in items]
            respell(document, alias, (row.get(SPELLING_COLUMN) or {}).get(alias))
        self._name_type(document)
        return document

    def tombstone_content(self, identity: Identity, ttl: int) -> Document:
        """Return the content of the tombstone document: what `placeholder` returns, and the type."""
        document = self.placeholder(identity, ttl)
        self._name_type(document)
        return document

    def placeholder(self, identity: Identity, ttl: int) -> Document:
        """Return a document of no type: the key, a TTL in seconds, unique key paths filled uniquely."""
        document: Document = {"id": identity.id, "ttl": ttl}
        for path, part in zip(self._key_paths, identity.parts, strict=True):
            path.put(document, part)
        filler = hashlib.blake2b(f"{identity.partition_key}{identity.id}".encode(), digest_size=16).hexdigest()
        for path in self._unique_paths:
            path.put(document, f"crossfeed-deleted-{filler}")
        return document

    def _name_type(self, document: Document) -> None:
        if self.discriminator is not None:
            self.discriminator.put(document)

    # -- checks

    def _key_column(self, key: KeyPath) -> str:
        column = self.projection.column_of(key.segments[0]) if len(key.segments) == 1 else None
        if column is None:
            where = f"no column of {self.table.fullname} holds the partition key {key.path}"
            self._fail(f"{where}; name it with key_columns=")
        return column

    def _check(self) -> None:
        if not 1 <= len(self.paths) <= MAX_KEY_LEVELS:
            self._fail(f"a partition key has 1 to {MAX_KEY_LEVELS} levels, not {len(self.paths)}")
        if len(self.key_columns) != len(self.paths):
            self._fail(f"key_columns= names {len(self.key_columns)} columns for {len(self.paths)} levels of the key")
        if "id" not in self.table.columns:
            self._fail(f"table {self.table.fullname} has no column 'id'")
        if missing := [name for name in self.key_columns if name not in self.table.columns]:
            self._fail(f"table {self.table.fullname} has no column {', '.join(missing)}")
        if computed := [name for name in self.identity_columns if self.table.columns[name].computed is not None]:
            self._fail(f"{', '.join(computed)} is generated, but triggers must see the key before the row is stored")
        for lookup in self.lookups:
            self.alias(lookup.field)
        wanted = set(self.identity_columns)
        constraints = [
            {column.name for column in constraint.columns}
            for constraint in self.table.constraints
            if isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint)
        ]
        if wanted not in constraints:
            self._fail(
                f"table {self.table.fullname} has no primary key or unique constraint on exactly"
                f" ({', '.join(self.identity_columns)}), which is the document's identity; add one"
            )

    def _fail(self, problem: str) -> typing.NoReturn:
        raise MappingError(f"mapping {self.name}: {problem}")
