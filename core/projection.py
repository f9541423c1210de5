"""Turns documents into table rows and back, losing not a letter: columns where there are columns, JSONB for the rest.

A row is a dictionary from column name to JSON value, the form that Postgres reads with jsonb_populate_recordset and
writes with to_json. A column holds the meaning of a property (a timestamp, an enum's name); where the document spelled
it otherwise (seven digits, an enum as a number, a list as comma-joined text, a property left out), the spelling is kept
beside it and used again for as long as the column still means the same. So for every document that the model accepts:

    document(row(d)) == d
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ValidationError
from sqlalchemy.dialects.postgresql import JSONB

from core.errors import DocumentRefusedError, MappingError
from core.faithful import why_unfaithful
from core.instant import Instant, spell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from core.content import Document

Row = dict[str, Any]
"""Column name to JSON value."""

EXTRA_COLUMN = "crossfeed_extra"
SPELLING_COLUMN = "crossfeed_spelling"


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    alias: str
    is_timestamp: bool


class Projection:
    """The pairing of one pydantic model with one table: fields go to the columns of the same name.

    Args:
        model: the pydantic model; its aliases are the document's property names.
        table: the SQLAlchemy table; columns without a field are left to their defaults.
        body: the JSONB column for properties that have no column (`crossfeed_extra` unless the table has its own).

    Raises:
        MappingError: a column's type cannot carry JSON values faithfully, or `body` is no JSONB column of the table, or
            a field wants the same column.

    """

    def __init__(self, model: type[BaseModel], table: sa.Table, body: str = EXTRA_COLUMN) -> None:
        self.model = model
        self.table = table
        self.body = body
        self._columns = [_column(model, table, field) for field in model.model_fields if field in table.columns]
        self.aliases = frozenset(column.alias for column in self._columns)
        if body != EXTRA_COLUMN and not isinstance(getattr(table.columns.get(body), "type", None), JSONB):
            msg = f"{model.__name__}: body={body!r} is not a JSONB column of table {table.fullname}"
            raise MappingError(msg)
        if taken := {body, SPELLING_COLUMN}.intersection(column.name for column in self._columns):
            msg = f"{model.__name__}: the column {', '.join(taken)} is Crossfeed's, but a field has the same name"
            raise MappingError(msg)

    def column_of(self, alias: str) -> str | None:
        """Return the column that holds the property `alias`, or None."""
        return next((column.name for column in self._columns if column.alias == alias), None)

    @property
    def field_columns(self) -> list[str]:
        """The columns that fields go to, in the model's order."""
        return [column.name for column in self._columns]

    def is_timestamp(self, name: str) -> bool:
        """Whether a field's column holds a point in time, which Postgres spells its own way."""
        return any(column.name == name and column.is_timestamp for column in self._columns)

    @property
    def column_names(self) -> list[str]:
        """The columns that fields go to, in the model's order, then the column for the rest."""
        return [*self.field_columns, self.body, SPELLING_COLUMN]

    def both_ways(self, name: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Return what puts a field's dumped value into its column, and what takes it out again.

        Both raise DocumentRefusedError for what is no point in time in the column of one.
        """
        [column] = [column for column in self._columns if column.name == name]
        return partial(self._to_column, column), partial(self._from_column, column)

    def row(self, document: Mapping[str, Any]) -> Row:
        """Project a document's content (see `content_of`).

        Raises:
            DocumentRefusedError: the document does not fit the model; the message names places, never values.

        """
        content = dict(document)
        dumped = self._dump(self._validate(content, "the document"))
        row = {column.name: self._to_column(column, dumped[column.alias]) for column in self._columns}
        rest = {key: value for key, value in content.items() if key not in self.aliases}
        row[self.body] = rest if rest or self.body != EXTRA_COLUMN else None
        row[SPELLING_COLUMN] = self._spelling(content, row)
        return row

    def document(self, row: Mapping[str, Any]) -> Document:
        """Rebuild the document of a row.

        Raises:
            DocumentRefusedError: the row does not fit the model (written by raw SQL).

        """
        document = self._from_columns(row)
        plain, in_parts = dict(document), set()
        for alias, kept in (row.get(SPELLING_COLUMN) or {}).items():
            if respell(document, alias, kept):
                in_parts.add(alias)
        for key, value in (row.get(self.body) or {}).items():
            if key not in self.aliases:
                document[key] = value
        if in_parts and not self._means(document, plain):
            document |= {alias: plain[alias] for alias in in_parts}
        return document

    def _means(self, document: Document, plain: Document) -> bool:
        """Whether a document that was respelled in parts is read as what the row means: validators may see it whole."""
        try:
            dumped = self._dump(self._validate(document, "the document"))
        except DocumentRefusedError:
            return False
        # A column keeps less of a point in time than a document does.
        kept = {one.alias: self._from_column(one, self._to_column(one, dumped[one.alias])) for one in self._columns}
        return same_json(kept, plain)

    def parse(self, content: Document) -> BaseModel:
        """Read the model from a document's content.

        Raises:
            DocumentRefusedError: the document does not fit the model.

        """
        return self._validate(content, "the document")

    def _from_columns(self, row: Mapping[str, Any]) -> Document:
        values = {column.alias: self._from_column(column, row.get(column.name)) for column in self._columns}
        rest = {key: value for key, value in (row.get(self.body) or {}).items() if key not in self.aliases}
        dumped = self._dump(self._validate({**rest, **values}, "the row"))
        return {column.alias: dumped[column.alias] for column in self._columns}

    def _spelling(self, content: Document, row: Row) -> dict[str, Any] | None:
        spelling: dict[str, Any] = {}
        for alias, value in self._from_columns(row).items():
            if alias not in content:
                spelling[alias] = {"is": value}
            elif not same_json(content[alias], value):
                spelling[alias] = {"is": value, "was": content[alias]}
        return spelling or None

    def _validate(self, values: Document, what: str) -> BaseModel:
        try:
            return self.model.model_validate(values, by_alias=True, by_name=False)
        except ValidationError as error:
            places = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['type']}" for item in error.errors(include_input=False)
            )
            msg = f"{what} does not fit {self.model.__name__}: {places}"
            raise DocumentRefusedError(msg) from None
        except Exception as error:  # noqa: BLE001 - a user's validators run here and may raise anything
            msg = f"{what} cannot be read by {self.model.__name__} ({type(error).__name__})"
            raise DocumentRefusedError(msg) from None

    def _dump(self, entity: BaseModel) -> Document:
        try:
            return entity.model_dump(mode="json", by_alias=True)
        except Exception as error:  # noqa: BLE001 - as above; or nesting beyond what pydantic follows
            msg = f"the document cannot be written as JSON by {self.model.__name__} ({type(error).__name__})"
            raise DocumentRefusedError(msg) from None

    def _to_column(self, column: _Column, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        moment = self._moment(column, value)
        return value if moment is None else spell(moment)[:-2] + "Z"  # six digits: Postgres would round the seventh up

    def _from_column(self, column: _Column, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        moment = self._moment(column, value)
        return value if moment is None else spell(moment)

    def _moment(self, column: _Column, value: Any) -> Instant | None:  # noqa: ANN401 - any JSON value
        if not column.is_timestamp or not isinstance(value, str):
            return None
        try:
            return Instant.parse(value)
        except ValueError:  # Postgres has more of them: infinity, years before 1 and after 9999
            msg = f"{self.model.__name__}.{column.name} is no point in time of the years 1 to 9999"
            raise DocumentRefusedError(msg) from None


def respell(document: Document, alias: str, kept: Mapping[str, Any] | None) -> bool:
    """Spell one property as the document did, as far as the row does not mean something else by now.

    Returns:
        Whether only parts of it were spelled so: the others have changed since.

    """
    if kept is None or alias not in document:
        return False
    value = document[alias]
    if "was" in kept:
        document[alias] = _respelled(value, kept["is"], kept["was"])
        return not same_json(value, kept["is"]) and bool(document[alias] != value)
    if same_json(value, kept["is"]):
        del document[alias]
    return False


def _respelled(value: Any, is_: Any, was: Any) -> Any:  # noqa: ANN401 - any JSON values
    """Return a value with those of its parts that mean what they did spelled as they were."""
    if same_json(value, is_):
        return was
    match value, is_, was:
        case dict(), dict(), dict():
            return {
                name: _respelled(part, is_[name], was[name]) if name in is_ and name in was else part
                for name, part in value.items()
                if name not in is_ or name in was or not same_json(part, is_[name])
            }
        case list(), list(), list() if len(is_) == len(was):
            return [*map(_respelled, value, is_, was), *value[len(is_) :]]
        case _:
            return value


def same_json(one: Any, other: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether two JSON values are the same to a reader that tells `true` from `1`, but not `1` from `1.0`.

    Both stores spell numbers their own way (`1.0` or `1`, `1e+21` or its digits): that spelling is no content.
    """
    match one:
        case dict():
            return (
                isinstance(other, dict)
                and one.keys() == other.keys()
                and all(same_json(value, other[key]) for key, value in one.items())
            )
        case list():
            return isinstance(other, list) and len(one) == len(other) and all(map(same_json, one, other))
        case int() | float() if not isinstance(one, bool):
            return isinstance(other, int | float) and not isinstance(other, bool) and _same_number(one, other)
        case _:
            return type(one) is type(other) and bool(one == other)


def _same_number(one: float, other: float) -> bool:
    try:
        return one == other or float(one) == float(other)
    except OverflowError:  # an integer that is no document's
        return False


def _column(model: type[BaseModel], table: sa.Table, field: str) -> _Column:
    column = table.columns[field]
    if problem := why_unfaithful(column, model.model_fields[field].annotation):
        msg = f"{model.__name__}.{field}: column {table.fullname}.{field} {problem}"
        raise MappingError(msg)
    alias = model.model_fields[field].serialization_alias or model.model_fields[field].alias or field
    return _Column(field, alias, isinstance(column.type, sa.DateTime))


def kept_empty_list(document: Document, alias: str) -> dict[str, Any]:
    """Return the spelling to keep of a list that is empty, or left out: no child rows say so."""
    return {"is": [], "was": document[alias]} if alias in document else {"is": []}
