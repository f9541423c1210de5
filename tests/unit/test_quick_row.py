"""The quick way makes the rows that the mapping makes of a document, or none at all."""

from __future__ import annotations

import copy
import datetime as dt
import itertools
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_serializer, model_validator
from sqlalchemy.dialects.postgresql import JSONB

from core.content import check_values, content_of
from core.domain.mappings import MAPPINGS
from core.domain.samples import sample_documents
from core.entity import Entity
from core.errors import DocumentRefusedError
from core.instant import Instant
from core.mapping import EntityMapping
from core.projection import SPELLING_COLUMN, same_json
from core.quick_row import quick_row_of, row_of
from tests.unit.shortcut_steps import anything
from tests.unit.strategies import date_texts, names, values

if TYPE_CHECKING:
    from core.content import Document

DOCUMENTS = sample_documents(300, seed=11)
SAMPLES = {mapping.container: (mapping, DOCUMENTS[mapping.container][:60]) for mapping in MAPPINGS}


def check_same(mapping: EntityMapping[Any], document: Document) -> bool:
    """Make the row both ways and compare; return whether there is a quick way for this document."""
    content = content_of(document)
    before = copy.deepcopy(content)
    quick = quick_row_of(mapping)
    made = quick.row(content) if quick is not None else None
    assert repr(content) == repr(before), "the document was changed"
    try:
        check_values(content)
        slow = mapping.row(document)
    except DocumentRefusedError:
        slow = None
    if made is not None and slow is not None:
        assert same_json(made, slow), {
            name: (made.get(name), slow.get(name))
            for name in made.keys() | slow.keys()
            if not same_json(made.get(name), slow.get(name))
        }
    if made is not None and slow is None:  # the caller has checked the values
        with pytest.raises(DocumentRefusedError):
            check_values(content)
    return made is not None


@pytest.mark.parametrize("container", SAMPLES)
def test_all_samples_take_the_quick_way_and_give_the_same_rows(container: str) -> None:
    mapping, documents = SAMPLES[container]
    assert all(check_same(mapping, document) for document in documents)


@pytest.mark.parametrize("container", SAMPLES)
@given(data=st.data())
@settings(max_examples=60)
def test_whatever_stands_in_a_document_both_ways_agree(container: str, data: st.DataObject) -> None:
    mapping, documents = SAMPLES[container]
    document = copy.deepcopy(data.draw(st.sampled_from(documents)))
    for _ in range(data.draw(st.integers(1, 3))):
        _spoil(document, data)
    check_same(mapping, document)


def _spoil(document: Document, data: st.DataObject) -> None:
    """Put something else in one place of a document, at any depth, or take it out, or add something."""
    place: Any = document
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys) if keys else st.none())
        if key is None or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    change = data.draw(st.integers(0, 3))
    if isinstance(place, dict) and change == 0:
        place[data.draw(names | st.sampled_from(["Id", "id", "Type", "Email", "_etag", "crossfeed"]))] = copy.deepcopy(
            data.draw(odd)
        )
    elif key is not None and change == 1:
        del place[key]
    elif key is not None:
        place[key] = copy.deepcopy(data.draw(odd))


odd = (
    anything
    | date_texts()
    | st.sampled_from(
        [0, 1, 2.0, -0.0, True, 1e300, "", " a,b ", ",", "{}", '{"x":{}}', "null", [], {}, [None], 5e-324]
    )
    | st.sampled_from(["2026-02-29T00:00:00", "2024-02-29T24:00:00.0000000Z", "2026-01-31T08:00:00.1234567+02:00"])
    | st.sampled_from(["0000-01-01T00:00:00.0000000Z", "2026-W01-1T00:00:00Z", "2026-01-31t08:00:00.1234567Z"])
    | st.sampled_from(
        ["2026-01-31T08:00:60.1234567Z", "2026-01-31T08:00:00.1234567Z\n", "20\u0662\u0660-01-31T08:00:00Z"]
    )
)


# -- models of other kinds


class Part(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str = "n"
    when: Instant | None = None
    many: list[str] = Field(default_factory=list)


class Closed(BaseModel, extra="forbid"):
    a: int = 1


numbers = itertools.count()


def _split(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


class Strange(Entity):
    count: int = 0
    weight: float = 1.5
    flag: bool = False
    day: dt.date | None = None
    price: Decimal = Decimal("1.50")
    kind: Literal["a", "b"] = "a"
    loose: Any = None
    either: int | str | None = None
    part: Part = Field(default_factory=Part)
    parts: list[Part] = Field(default=[])
    by_name: dict[str, Part] = Field(default={})
    closed: Closed = Closed()
    trimmed: Annotated[list[str], BeforeValidator(_split)] = Field(default=[])
    serial: int = Field(default_factory=lambda: next(numbers))
    moment: dt.datetime | None = None
    needed: str
    homeless: int = 3
    homeless_part: Part = Field(default_factory=Part)


_KINDS: dict[str, Any] = {
    "count": sa.BigInteger,
    "weight": sa.Double,
    "flag": sa.Boolean,
    "moment": sa.DateTime(timezone=True),
}
table = sa.Table(
    "strange",
    sa.MetaData(),
    sa.Column("id", sa.Text, primary_key=True),
    *(
        sa.Column(name, _KINDS.get(name, JSONB))
        for name in Strange.model_fields
        if name != "id" and not name.startswith("homeless")
    ),
)
STRANGE = EntityMapping(Strange, table=table, container="C", partition_key="/id")
_VALUES = (
    odd | values | st.sampled_from([{"name": "x"}, [{"name": "x"}], {"a": 1}, {"k": {}}, "2026-01-31", "1.20", "b"])
)


_ALWAYS = {"id": "a", "serial": 1, "needed": "n"}


@given(document=st.dictionaries(st.sampled_from([*Strange.model_fields, "other"]), _VALUES, max_size=3))
@settings(max_examples=150)
def test_a_model_of_many_kinds_is_read_the_same_both_ways(document: Document) -> None:
    check_same(STRANGE, {**_ALWAYS, **document, "id": "a"})


def test_what_is_not_always_filled_in_alike_is_the_mappings_to_fill_in() -> None:
    assert check_same(STRANGE, _ALWAYS)
    for name in ("serial", "needed"):
        assert not check_same(STRANGE, {key: value for key, value in _ALWAYS.items() if key != name})


def test_a_validator_that_changes_what_it_is_given_changes_no_document() -> None:
    class Spoiling(Entity):
        parts: Annotated[list[Part], BeforeValidator(_spoiling)] = Field(default=[])

    mapping = _mapping(Spoiling, "parts")
    document = {"id": "a", "parts": [{"name": "x"}]}
    quick = quick_row_of(mapping)
    assert quick is not None
    row = quick.row(document)
    assert row is not None
    assert document == {"id": "a", "parts": [{"name": "x"}]}
    assert [part["name"] for part in row["parts"]] == ["x", "spoiled"]


def _spoiling(value: Any) -> Any:
    value.append({"name": "spoiled"})
    return value


def test_a_serializer_of_the_users_is_asked() -> None:
    class Shouting(Entity):
        a: str = "b"

        @field_serializer("a")
        def _shout(self, value: str) -> str:
            return value.upper()

    mapping = _mapping(Shouting, "a")
    for document in ({"id": "x"}, {"id": "x", "a": "c"}):
        assert row_of(mapping, document) == mapping.row(document)


def test_a_key_that_the_model_reads_as_another_value_is_refused_both_ways() -> None:
    class Numbered(Entity):
        key: int = 0

    table = sa.Table(
        "t",
        sa.MetaData(),
        sa.Column("key", sa.BigInteger, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
    )
    mapping = EntityMapping(Numbered, table=table, container="C", partition_key="/key")
    assert not check_same(mapping, {"id": "a", "key": "1"})
    assert row_of(mapping, {"id": "a", "key": 1}) == mapping.row({"id": "a", "key": 1})


@pytest.mark.parametrize(
    "when",
    ["2026-02-29T00:00:00.0000000Z", "2026-04-31T00:00:00.0000000Z", "2026-06-31T00:00:00", "0000-01-01T00:00:00"],
)
def test_a_day_that_does_not_exist_is_refused_both_ways(when: str) -> None:
    for document in ({"part": {"when": when}}, {"parts": [{"name": "x", "when": when, "many": []}]}):
        assert not check_same(STRANGE, {**_ALWAYS, **document})


def test_a_default_stands_in_its_column_and_is_known_to_have_been_left_out() -> None:
    quick = quick_row_of(SAMPLES["Accounts"][0])
    assert quick is not None
    row = quick.row({"id": "a"})
    assert row is not None
    assert row["created_at"] == "0001-01-01T00:00:00.000000Z"
    assert row[SPELLING_COLUMN]["CreatedAt"] == {"is": "0001-01-01T00:00:00.0000000Z"}
    assert row["subscription"]["Type"] == "Free"


def _mapping(model: type[Entity], *columns: str, **more: Any) -> EntityMapping[Any]:
    made = sa.Table(
        "t", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), *(sa.Column(name, JSONB) for name in columns)
    )
    return EntityMapping(model, table=made, container="C", partition_key="/id", **more)


def test_a_validator_of_the_whole_model_is_never_passed_by() -> None:
    class Checked(Entity):
        a: int = 1

        @model_validator(mode="after")
        def _check(self) -> Checked:
            if self.a > 1:
                msg = "too much"
                raise ValueError(msg)
            return self

    mapping = _mapping(Checked, "a")
    with pytest.raises(DocumentRefusedError):
        row_of(mapping, {"id": "x", "a": 2})


def test_a_property_without_a_column_is_checked_like_one_that_has_one() -> None:
    class Homeless(Entity):
        a: int = 1

    mapping = _mapping(Homeless, "body", body="body")
    assert row_of(mapping, {"id": "x", "a": 2}) == mapping.row({"id": "x", "a": 2})
    with pytest.raises(DocumentRefusedError):
        row_of(mapping, {"id": "x", "a": "much"})


def test_a_model_that_forbids_what_it_does_not_know_refuses_it_both_ways() -> None:
    class Strict(Entity):
        model_config = ConfigDict(extra="forbid")

        a: int = 1

    mapping = _mapping(Strict, "a")
    assert row_of(mapping, {"id": "x", "a": 2}) == mapping.row({"id": "x", "a": 2})
    with pytest.raises(DocumentRefusedError):
        row_of(mapping, {"id": "x", "b": 2})
