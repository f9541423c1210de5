"""Random JSON, and what the two stores make of it on the way through."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB

from core.content import load_exact
from core.domain.mappings import MAPPINGS

if TYPE_CHECKING:
    from core.content import Document
    from core.mapping import EntityMapping
    from core.projection import Row

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
integers = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(-1e30, 1e30).map(int),  # beyond 2^53 only those that a double holds
)
floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(integers, floats)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
_TAKEN = {mapping.alias(field) for mapping in MAPPINGS for field in mapping.model.model_fields}
names = texts.filter(lambda name: name not in _TAKEN and not name.startswith(("_", "crossfeed")))
"""Property names that are neither a field's of the example, nor the system's, nor ours."""

contents = st.dictionaries(names, values, max_size=5).map(lambda properties: {"id": "a", **properties})

_LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
_OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@st.composite
def date_texts(draw: st.DrawFn) -> str:
    """Spell a date in one of the ways that documents do."""
    moment = draw(
        st.one_of(
            st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=_OFFSETS),
            st.sampled_from([datetime(1, 1, 1, tzinfo=UTC), _LAST]),
        )
    )
    day = f"{moment.year:04d}-{moment:%m-%d}"
    style = draw(st.integers(0, 4))
    if style == 0:
        return day
    clock = f"{moment:%H:%M:%S}"
    if style == 1:
        return f"{day}T{clock}"
    fraction = f".{moment:%f}{draw(st.integers(0, 9))}"
    if style == 2:
        return f"{day}T{clock}{fraction}"
    if style == 3:
        return f"{day}T{clock}{fraction}Z"
    return moment.isoformat().replace(moment.isoformat()[:4], f"{moment.year:04d}", 1)


def as_jsonb(value: Any) -> Any:
    """Return a JSON value as Postgres gives it back from a JSONB column: its own key order, its own digits."""
    return load_exact(_jsonb_text(value))


def _jsonb_text(value: Any) -> str:
    match value:
        case dict():
            keys = sorted(value, key=lambda key: (len(key.encode()), key))
            return "{" + ", ".join(f"{json.dumps(key)}: {_jsonb_text(value[key])}" for key in keys) + "}"
        case list():
            return "[" + ", ".join(map(_jsonb_text, value)) + "]"
        case float():
            return (
                format(Decimal(repr(value)) + 0, "f").removeprefix("-")
                if value == 0
                else format(Decimal(repr(value)), "f")
            )
        case _:
            return json.dumps(value)


def as_cosmos(value: Any) -> Any:
    """Return a JSON value as Cosmos DB may give it back: another key order, every number a double, whole ones bare."""
    match value:
        case dict():
            return {key: as_cosmos(value[key]) for key in reversed(value)}
        case list():
            return [as_cosmos(item) for item in value]
        case bool():
            return value
        case int() | float():
            double = float(value)
            return int(double) if double.is_integer() and abs(double) < 1e21 else double
        case _:
            return value


def as_postgres(table: sa.Table, row: Row) -> Row:
    """Return a row as `to_json` gives it back after jsonb_populate_recordset: timestamps and numbers re-spelled."""
    returned: Row = {}
    for name, value in row.items():
        column = table.columns.get(name)
        if column is not None and isinstance(column.type, sa.DateTime) and value is not None:
            moment = datetime.fromisoformat(value).astimezone(UTC)
            fraction = f".{moment:%f}".rstrip("0").rstrip(".")
            returned[name] = f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S}{fraction}+00:00"
        elif column is None or isinstance(column.type, JSONB):
            returned[name] = as_jsonb(value)
        else:
            returned[name] = value
    return returned


def through_a_row(mapping: EntityMapping[Any], document: Document) -> list[Document]:
    """Return what comes back of a document from its row, in each form that a row takes on its way."""
    row = mapping.row(document)
    forms = (row, json.loads(json.dumps(row)), as_postgres(mapping.table, row))
    return [mapping.document_of_row(form) for form in forms]
