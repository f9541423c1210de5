"""Projections: every document that a model accepts comes back from its row to the letter."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy.dialects.postgresql import JSONB

from core.children import ChildTable
from core.content import check_content
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS
from core.entity import Entity
from core.errors import DocumentRefusedError, MappingError
from core.instant import Instant
from core.mapping import EntityMapping
from core.projection import Projection, same_json
from tests.unit.strategies import as_postgres, contents, date_texts, names, texts, values

if TYPE_CHECKING:
    from core.content import Document


class Line(BaseModel):
    model_config = ConfigDict(extra="allow", validate_by_name=True, validate_by_alias=True)

    sku: str = Field(default="", alias="Sku")
    amount: int = Field(default=0, alias="Amount")
    due: Instant | None = Field(default=None, alias="Due")


class Order(Entity):
    title: str = ""
    weight: float = 1.0
    placed: Instant | None = None
    homeless: str = "by default"  # no column: lives in the body
    lines: list[Line] = Field(default_factory=list, alias="Lines")


metadata = sa.MetaData()
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("title", sa.Text),
    sa.Column("weight", sa.Double),
    sa.Column("placed", sa.DateTime(timezone=True)),
    sa.Column("data", JSONB),
)
order_lines = sa.Table(
    "order_lines",
    metadata,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("sku", sa.Text),
    sa.Column("amount", sa.Integer),
    sa.Column("due", sa.DateTime(timezone=True)),
)
ORDERS = EntityMapping(
    Order,
    table=orders,
    container="Orders",
    partition_key="/id",
    children=[ChildTable("lines", order_lines, parent=("order_id",), position="place")],
)

line_documents = st.builds(
    lambda line, extra: {**extra, **line},
    st.fixed_dictionaries({}, optional={"Sku": texts, "Amount": st.integers(0, 9), "Due": st.none() | date_texts()}),
    st.dictionaries(texts, values, max_size=2).map(
        lambda extra: {key: value for key, value in extra.items() if key not in {"Sku", "Amount", "Due"}}
    ),
)
order_documents = st.builds(
    lambda content, fields: {**content, **fields},
    contents,
    st.fixed_dictionaries(
        {},
        optional={
            "title": texts,
            "weight": st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 9) | st.just("1.5"),
            "placed": st.none() | date_texts(),
            "homeless": texts,
            "Lines": st.lists(line_documents, max_size=3),
        },
    ),
)


def through_a_row(mapping: EntityMapping[Any], document: Document) -> list[Document]:
    """Return what comes back from the row itself, from JSON, and from Postgres."""
    row = mapping.row(document)
    stored = as_postgres(mapping.table, row)
    for child in mapping.children:
        stored[child.table.name] = [as_postgres(child.table, item) for item in reversed(row[child.table.name])]
    return [mapping.document_of_row(form) for form in (row, json.loads(json.dumps(row)), stored)]


@settings(max_examples=60)
@given(order_documents)
def test_an_aggregate_with_a_child_table_comes_back_from_its_rows(document: Document) -> None:
    for returned in through_a_row(ORDERS, document):
        assert same_json(returned, document)


def test_items_of_a_child_table_go_to_rows_of_their_own_and_nowhere_else() -> None:
    document = {
        "id": "o1",
        "Lines": [
            {"Sku": "a", "Amount": 2, "Due": "2026-01-31T08:00:00.1234567"},
            {"Sku": "b", "_ts": 7, "crossfeed": 1},
        ],
    }
    row = ORDERS.row(document)
    assert "Lines" not in (row["crossfeed_extra"] or {})
    assert [(item["order_id"], item["place"], item["sku"], item["amount"]) for item in row["order_lines"]] == [
        ("o1", 0, "a", 2),
        ("o1", 1, "b", 0),
    ]
    assert row["order_lines"][0]["due"] == "2026-01-31T08:00:00.123456Z"
    assert ORDERS.document_of_row(row) == document


@pytest.mark.parametrize("lines", [[], None])
def test_an_empty_child_list_is_told_from_one_left_out(lines: list[Any] | None) -> None:
    without: Document = {"id": "o1"}
    assert ORDERS.document_of_row(ORDERS.row(without)) == without
    empty: Document = {"id": "o1", "Lines": []}
    assert ORDERS.document_of_row(ORDERS.row(empty)) == empty
    filled = ORDERS.row(empty)
    filled["order_lines"] = [{"order_id": "o1", "place": 0, "sku": "by SQL", "amount": 1, "due": None}]
    assert ORDERS.document_of_row(filled)["Lines"] == [{"Sku": "by SQL", "Amount": 1, "Due": None}]


def test_a_child_row_that_sql_inserted_shows_in_a_document_that_had_no_list() -> None:
    row = ORDERS.row({"id": "o1"})
    row["order_lines"] = [{"order_id": "o1", "place": 0, "sku": "x", "amount": 1, "due": None}]
    assert ORDERS.document_of_row(row)["Lines"] == [{"Sku": "x", "Amount": 1, "Due": None}]


def test_what_is_no_list_of_objects_cannot_live_in_a_child_table() -> None:
    class Lenient(Entity):
        lines: Annotated[list[Line], BeforeValidator(lambda value: [] if isinstance(value, str) else value)]

    child = ChildTable("lines", order_lines, parent=("order_id",), position="place")
    mapping = EntityMapping(Lenient, table=orders, container="Orders", partition_key="/id", children=[child])
    with pytest.raises(DocumentRefusedError, match="list of objects"):
        mapping.row({"id": "o1", "lines": "a,b"})


# -- columns and spellings


def test_a_property_that_was_left_out_stays_out_and_a_default_does_not_creep_in() -> None:
    document = {"id": "o1", "Unknown": {"a": 1}}
    for returned in through_a_row(ORDERS, document):
        assert returned == document


def test_a_column_that_sql_changed_is_spelled_anew_and_its_neighbours_as_before() -> None:
    document = {"id": "s", "accountId": "a", "Status": 2, "SceneCount": 3, "StartTime": "2026-01-31T08:00:00.1234567"}
    row = GAME_SESSIONS.row(document)
    row["status"] = "Completed"
    assert GAME_SESSIONS.document_of_row(row) == {**document, "Status": "Completed"}
    row["start_time"] = "2026-01-31T08:00:00.123457+00:00"
    row["player_names"] = ["Lee, Ann"]
    assert GAME_SESSIONS.document_of_row(row) == {
        **document,
        "Status": "Completed",
        "StartTime": "2026-01-31T08:00:00.1234570Z",
        "PlayerNames": ["Lee, Ann"],
    }


def test_a_column_that_sql_changed_and_changed_back_has_its_old_spelling() -> None:
    document = {"id": "s", "accountId": "a", "Status": 2}
    row = GAME_SESSIONS.row(document)
    assert row["status"] == "Paused"
    assert GAME_SESSIONS.document_of_row({**row, "status": "Completed"})["Status"] == "Completed"
    assert GAME_SESSIONS.document_of_row({**row, "status": "Paused"})["Status"] == 2


def test_a_document_in_the_new_shape_needs_no_spelling_beside_it() -> None:
    entity = GAME_SESSIONS.entity({"id": "s", "accountId": "a", "Status": 1, "PlayerNames": "Ann,Bob"})
    row = GAME_SESSIONS.row(GAME_SESSIONS.document(entity))
    assert row["crossfeed_spelling"] is None
    assert row["crossfeed_extra"] is None


def test_a_timestamp_column_never_gets_a_digit_that_postgres_would_round() -> None:
    row = GAME_SESSIONS.row({"id": "s", "accountId": "a", "EndTime": "9999-12-31T23:59:59.9999999"})
    assert row["end_time"] == "9999-12-31T23:59:59.999999Z"


@pytest.mark.parametrize(
    "text", ["infinity", "-infinity", "0044-03-15T00:00:00+00:00 BC", "10000-01-01T00:00:00+00:00"]
)
def test_a_point_in_time_that_only_postgres_knows_is_refused_by_name_of_its_column(text: str) -> None:
    row = GAME_SESSIONS.row({"id": "s", "accountId": "a"})
    with pytest.raises(DocumentRefusedError, match=r"GameSession\.start_time"):
        GAME_SESSIONS.document_of_row({**row, "start_time": text})


def test_a_refusal_names_places_and_never_values() -> None:
    with pytest.raises(DocumentRefusedError) as refusal:
        GAME_SESSIONS.row({"id": "s", "accountId": "a", "SceneCount": "secret", "Status": "secret"})
    assert "SceneCount" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@given(st.dictionaries(names, values, max_size=4), values)
def test_a_mapping_with_nothing_but_a_body_carries_any_json(properties: Document, value: Any) -> None:
    class Anything(Entity):
        pass

    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("body", JSONB))
    mapping = EntityMapping(Anything, table=table, container="C", partition_key="/id", body="body")
    document = {"id": "a", **properties, "body": value}
    for returned in through_a_row(mapping, document):
        assert same_json(returned, document)


def test_a_column_type_that_cannot_carry_json_is_refused_when_mapped() -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("title", sa.LargeBinary))
    with pytest.raises(MappingError, match=r"Order\.title"):
        Projection(Order, table)


@pytest.mark.parametrize("body", ["title", "nowhere"])
def test_a_body_that_is_no_jsonb_column_is_refused_when_mapped(body: str) -> None:
    with pytest.raises(MappingError, match=body):
        Projection(Order, orders, body)


def test_a_field_cannot_share_the_column_of_the_rest() -> None:
    class Greedy(Entity):
        data: dict[str, Any] = Field(default_factory=dict)

    with pytest.raises(MappingError, match="data"):
        Projection(Greedy, orders, body="data")


# -- same_json


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1e21, 10**21, True),
        (2.0**68, 295147905179352830000, True),
        (2**68, 295147905179352830000, True),
        (0.0, -0.0, True),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True),
        (1, True, False),
        (0, False, False),
        (None, False, False),
        ("1", 1, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        ({"a": None}, {}, False),
        ({}, [], False),
        (10**400, 1.0, False),
        (2**53, 2**53 + 2, False),
    ],
)
def test_same_json_tells_kinds_apart_and_not_spellings(one: Any, other: Any, same: bool) -> None:
    assert same_json(one, other) is same
    assert same_json(other, one) is same
    assert same_json([{"x": one}], [{"x": other}]) is same


def test_a_decimal_is_no_json() -> None:
    with pytest.raises(DocumentRefusedError, match="Decimal"):
        check_content({"a": Decimal(1)})


def test_a_part_that_changed_leaves_all_others_spelled_as_they_were() -> None:
    created = "2024-12-11T12:25:37.9699417"  # more digits than its column holds
    document = {"id": "a", "CreatedAt": created, "Subscription": {"Type": 1, "Tier": "old"}}
    row = ACCOUNTS.row(document)
    row["subscription"] = {**row["subscription"], "Tier": "new"}
    assert ACCOUNTS.document_of_row(row) == document | {"Subscription": {"Type": 1, "Tier": "new"}}
