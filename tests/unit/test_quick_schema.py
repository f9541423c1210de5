"""A quick schema gives what the model would have dumped, whatever pydantic can do, or nothing at all."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WrapValidator,
    computed_field,
    field_validator,
    model_validator,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.entity import Entity
from core.identity import Identity
from core.instant import Instant
from core.mapping import EntityMapping
from core.shortcut import shortcut_of
from tests.unit.shortcut_steps import anything, check_same, moments
from tests.unit.strategies import names


class Size(IntEnum):
    SMALL = 1


class Color(Enum):
    RED = "red"


class Ignoring(BaseModel):
    a: int = 0


class Computing(BaseModel):
    a: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.a


class Stripping(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True, extra="forbid")

    name: str


class Tree(BaseModel):
    model_config = ConfigDict(extra="allow")

    leaves: list[Tree] = Field(default_factory=list, alias="Leaves")


def _words(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


class Odd(Entity):
    """Something of everything that pydantic reads in its own way."""

    name: Annotated[str, Field(min_length=1, max_length=5)] = "x"
    upper: Annotated[str, AfterValidator(str.upper)] = ""
    words: Annotated[list[str], BeforeValidator(_words)] = Field(default_factory=list)
    wrapped: Annotated[int, WrapValidator(lambda value, handler: handler(value) + 1)] = 0
    hidden: Annotated[str, PlainSerializer(lambda value: f"<{value}>")] = ""
    size: Size = Size.SMALL
    color: Color | None = None
    kind: Literal["a", "b"] = "a"
    either: int | str | None = None
    amount: float = 0
    price: Decimal = Decimal(0)
    day: date | None = None
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    seen: Instant | None = None
    ref: UUID | None = None
    ignoring: Ignoring = Ignoring()
    computing: Computing = Computing()
    stripping: Stripping | None = None
    tree: Tree | None = None
    scores: dict[str, int] = Field(default_factory=dict)
    unique: set[str] = Field(default_factory=set)
    pair: tuple[int, str] | None = None
    homeless: int = 3

    @field_validator("name")
    @classmethod
    def _no_z(cls, value: str) -> str:
        if "z" in value:
            msg = "z"
            raise ValueError(msg)
        return value


_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "name": sa.Text(),
    "upper": sa.Text(),
    "hidden": sa.Text(),
    "wrapped": sa.BigInteger(),
    "amount": sa.Double(),
    "price": sa.Numeric(),
    "day": sa.Date(),
    "at": sa.DateTime(timezone=True),
    "seen": sa.DateTime(timezone=True),
    "ref": sa.Uuid(),
}
ODD = EntityMapping(
    Odd,
    table=sa.Table(
        "odd",
        sa.MetaData(),
        sa.Column("id", sa.Text, primary_key=True),
        *(
            sa.Column(field, _TYPES.get(field, JSONB()))
            for field in Odd.model_fields
            if field not in {"id", "homeless"}
        ),
    ),
    container="Odd",
    partition_key="/id",
)


@given(data=st.data(), rest=st.none() | st.dictionaries(names | st.just("homeless"), anything, max_size=2))
@settings(max_examples=150)
def test_a_model_with_something_of_everything_is_read_the_same_both_ways(data: st.DataObject, rest: Any) -> None:
    defaults: dict[str, Any] = Odd(id="a").model_dump(mode="json", by_alias=True)
    row: dict[str, Any] = {**defaults, "at": data.draw(moments), "crossfeed_extra": rest, "crossfeed_spelling": None}
    del row["homeless"]
    for name in data.draw(st.lists(st.sampled_from(sorted(row.keys() - {"crossfeed_spelling", "id"})), max_size=3)):
        if name != "crossfeed_extra":
            row[name] = data.draw(anything)
    check_same(ODD, json.dumps(row), Identity("Odd", '["a"]', "a"))


@pytest.mark.parametrize(
    ("digits", "is_taken"),
    [
        ("1.5", True),
        ("3.0", True),
        ("-0.0", True),
        ("1.00000000000000000001", False),
        ("1e400", False),
        ("1e21", False),
    ],
)
def test_a_fraction_takes_the_shortcut_only_if_a_double_holds_it(digits: str, *, is_taken: bool) -> None:
    row = {**Odd(id="a").model_dump(mode="json"), "at": "2026-01-31T08:00:00", "crossfeed_spelling": None}
    text = json.dumps({**row, "crossfeed_extra": None}).replace('"amount": 0.0', f'"amount": {digits}')
    assert digits in text
    assert check_same(ODD, text, Identity("Odd", '["a"]', "a")) is is_taken


def test_keys_of_a_map_beyond_the_basic_plane_are_sorted_by_utf_16() -> None:
    row = {**Odd(id="a").model_dump(mode="json"), "amount": 1, "at": "2026-01-31T08:00:00", "crossfeed_extra": None}
    row |= {"scores": {"\U0001f600": 1, "\uffee": 2}, "crossfeed_spelling": None}
    check_same(ODD, json.dumps(row), Identity("Odd", '["a"]', "a"))
    assert check_same(ODD, json.dumps({**row, "scores": {"é": 1}}), Identity("Odd", '["a"]', "a"))


def test_a_model_with_something_of_everything_does_take_the_shortcut() -> None:
    defaults: dict[str, Any] = Odd(id="a").model_dump(mode="json", by_alias=True)
    row = {**defaults, "amount": 2, "at": "2026-01-31T08:00:00.5", "crossfeed_extra": None, "crossfeed_spelling": None}
    row |= {"upper": "u", "tree": {"Leaves": []}, "day": "2026-01-31", "words": "a b", "stripping": {"name": " x "}}
    assert check_same(ODD, json.dumps(row), Identity("Odd", '["a"]', "a"))


def _grow(value: Any) -> Any:
    value.append("more")
    return list(value)


class Growing(Entity):
    """A validator that changes what it is given must see it once only."""

    words: Annotated[list[str], BeforeValidator(_grow)] = Field(default_factory=list)


GROWING = EntityMapping(
    Growing,
    table=sa.Table(
        "growing",
        sa.MetaData(),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("words", JSONB(none_as_null=True)),
    ),
    container="Growing",
    partition_key="/id",
)


def test_what_a_validator_may_have_changed_is_not_read_again() -> None:
    row = {"id": "a", "words": ["some"], "crossfeed_extra": None, "crossfeed_spelling": None}
    check_same(GROWING, json.dumps(row), Identity("Growing", '["a"]', "a"))


class Watching(Entity):
    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _look(cls, value: Any) -> Any:
        return value


class Neighbour(Entity):
    name: str = ""
    other: str = ""

    @field_validator("other")
    @classmethod
    def _beside(cls, value: str, info: Any) -> str:
        return value or str(info.data["name"])


class Dumping(Entity):
    name: str = ""

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return {**super().model_dump(**how), "name": "another"}


class Making(Entity):
    name: str = ""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.name = "another"


class Preparing(Entity):
    name: str = ""

    def model_post_init(self, context: Any, /) -> None:
        self.name = self.name.upper()


@pytest.mark.parametrize("model", [Watching, Neighbour, Dumping, Making, Preparing])
def test_a_model_that_looks_at_itself_as_a_whole_has_no_shortcut(model: type[Entity]) -> None:
    columns = [sa.Column(name, sa.Text) for name in model.model_fields if name != "id"]
    table = sa.Table("whole", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), *columns)
    assert shortcut_of(EntityMapping(model, table=table, container="Whole", partition_key="/id")) is None
