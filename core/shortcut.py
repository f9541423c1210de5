"""Makes the finished documents of ordinary rows, several times faster than the mapping does, and of no others.

What it makes is what the mapping would have made: the document of the row, checked for both stores and stamped.
Wherever it is not certain of that (a row that does not fit its model, a number with a fraction, a strange id) it makes
nothing, and the caller takes the general path, which knows the reason for a refusal as well.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from pydantic_core import SchemaValidator, core_schema

from core.content import ENVELOPE, SYSTEM_PROPERTIES, Document, canonical_hash, is_plain, is_storable, plain_canonical
from core.envelope import Origin, sealed
from core.identity import check_id
from core.instant import spell_utc
from core.mapping import RESERVED_ID_PREFIX, EntityMapping
from core.projection import SPELLING_COLUMN, respell
from core.quick_reader import Column, reader
from core.quick_schema import INSTANT_SCHEMA, NotQuickError, QuickSchema, alias_of

if TYPE_CHECKING:
    from core.identity import Identity
    from core.stamp import Stamp

_ORDINARY_ID = re.compile(rf"(?!{RESERVED_ID_PREFIX})[A-Za-z0-9_-]{{1,255}}").fullmatch
_SHORT_KEY = 500
_MANY_DIGITS = re.compile(r"[0-9.]{17}").search
"""Finds a number with more than the 15 digits that every double holds."""
_OURS = SYSTEM_PROPERTIES | {ENVELOPE}


class Shortcut:
    """The quick way from one mapping's rows to its documents.

    Args:
        mapping: of the rows.

    Raises:
        NotQuickError: there is none for this mapping.

    """

    def __init__(self, mapping: EntityMapping[Any]) -> None:
        if type(mapping) is not EntityMapping or mapping.children:
            raise NotQuickError
        projection = mapping.projection
        self._quick = quick = QuickSchema(mapping.model)
        self._mapping = mapping
        self._body = projection.body
        self._discriminator = mapping.discriminator
        names = [name for name in projection.field_columns if name in quick.fields]
        self._aliases = frozenset(alias_of(name, quick.fields[name]) for name in names)
        if self._aliases != projection.aliases or not self._aliases.isdisjoint(_OURS) or "id" not in self._aliases:
            raise NotQuickError
        self._read = reader(
            [_column(quick, name, is_timestamp=projection.is_timestamp(name)) for name in projection.field_columns]
        )
        self._loose_keys = [name for name in mapping.key_columns if name not in names]
        others = [name for name in quick.fields if name not in names]
        self._asks_rest = not all(map(quick.may_be_missing, others))
        self._is_strict = self._asks_rest or bool(self._loose_keys)
        self._rest = SchemaValidator(_rest_schema(quick, others))
        [path, *deeper] = mapping.paths
        is_flat = not deeper and path.count("/") == 1
        self._key_property = path[1:] if is_flat and path[1:] in self._aliases else None

    def document(self, row_json: str, identity: Identity, stamp: Stamp) -> Document | None:
        """Return the finished document of a row, as Postgres spelled its projected columns, or None.

        None says nothing about the row but that the mapping must be asked.
        """
        self._quick.has_seen_fractions = False
        try:
            row = orjson.loads(row_json)
            document = self._read(row)
            if self._is_strict or row[self._body] is not None or row[SPELLING_COLUMN] is not None:
                whole = self._with_rest(document, row)
                if whole is None:
                    return None
                document = whole
            if self._discriminator is not None:
                self._discriminator.put(document)
            if not self._is_of(document, identity):
                return None
            if self._quick.has_seen_fractions and _MANY_DIGITS(row_json) is not None:
                return None
            id_ = document.pop("id")
            canonical = plain_canonical(document)
        except Exception:  # noqa: BLE001 - a user's validators may raise anything; the general path says what it is
            return None
        if canonical is None or not is_storable(canonical) or not (canonical.isascii() or is_plain(document)):
            return None
        document["id"] = id_
        return sealed(document, stamp, Origin.POSTGRES, canonical_hash(canonical))

    def _with_rest(self, document: Document, row: dict[str, Any]) -> Document | None:
        """Put into a document what has no column of its own, or None."""
        rest, spelling = row[self._body], row[SPELLING_COLUMN]
        for name in self._loose_keys:
            self._quick.plain(row[name])
        if rest is not None or self._asks_rest:
            rest = rest or {}
            if not (self._aliases | _OURS).isdisjoint(rest):
                return None
            self._rest.validate_python(rest, by_alias=True, by_name=False)
        if spelling is not None:
            for alias, kept in self._quick.plain(spelling).items():
                if respell(document, alias, kept):
                    return None
        return document if not rest else {**document, **rest}

    def _is_of(self, document: Document, identity: Identity) -> bool:
        """Whether a document has this identity, and one that Cosmos DB takes."""
        _, key, id_ = identity
        if document["id"] != id_ or len(key) > _SHORT_KEY:
            return False
        if _ORDINARY_ID(id_) is None:
            check_id(id_)
            if id_.startswith(RESERVED_ID_PREFIX):
                return False
        elif self._key_property == "id" and key == f'["{id_}"]':
            return True
        if self._key_property is not None and "\\" not in key:
            level = document[self._key_property]
            if type(level) is str and key == f'["{level}"]':
                return True
        return self._mapping.identity(document) == identity


@lru_cache(maxsize=256)
def shortcut_of(mapping: EntityMapping[Any]) -> Shortcut | None:
    """Return the shortcut of a mapping, or None if it has none."""
    try:
        return Shortcut(mapping)
    except NotQuickError:
        return None


def _column(quick: QuickSchema, name: str, *, is_timestamp: bool) -> Column:
    alias, schema = alias_of(name, quick.fields[name]), quick.field(name)
    if not is_timestamp:
        return Column(name, alias, schema)
    if schema is INSTANT_SCHEMA:
        return Column(name, alias, _MOMENT, is_moment=True)
    if schema["type"] == "nullable" and schema["schema"] is INSTANT_SCHEMA:
        return Column(name, alias, core_schema.nullable_schema(_MOMENT), is_moment=True)
    return Column(name, alias, core_schema.no_info_before_validator_function(_spelled, schema))


def _spelled(value: Any) -> Any:  # noqa: ANN401 - what a column holds
    return None if value is None else spell_utc(value)


_MOMENT = core_schema.no_info_plain_validator_function(spell_utc)


def _rest_schema(quick: QuickSchema, names: list[str]) -> core_schema.CoreSchema:
    """Check the properties without a column as the model would; what the model ignores must be plain as well."""
    fields = {
        alias_of(name, quick.fields[name]): core_schema.typed_dict_field(
            quick.field(name), required=not quick.may_be_missing(name)
        )
        for name in names
    }
    if quick.extras == "forbid":
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid")
    loose = core_schema.no_info_plain_validator_function(quick.plain)
    return core_schema.typed_dict_schema(fields, extra_behavior="allow", extras_schema=loose)
