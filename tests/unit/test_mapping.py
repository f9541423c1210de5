"""Mappings: what does not fit is refused when it is mapped, and identities come from documents alone."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.dialects.postgresql import JSONB

from core.children import ChildTable
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS, MAPPINGS, PENDING_SIGNUPS
from core.entity import Entity, Loaded, loaded, mark_loaded
from core.errors import DocumentRefusedError, MappingError
from core.identity import Identity
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.stamp import Stamp


class Line(BaseModel):
    sku: str = ""


class Order(Entity):
    tenant: str = "t"
    number: int = 0
    address: dict[str, Any] = Field(default_factory=dict)
    lines: list[Line] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)


def _table(*key: str, **types: Any) -> sa.Table:
    columns = {"id": sa.Text(), "tenant": sa.Text(), "number": sa.Integer(), "address": JSONB(), **types}
    return sa.Table("orders", sa.MetaData(), *(sa.Column(n, t, primary_key=n in key) for n, t in columns.items()))


lines = sa.Table(
    "lines", sa.MetaData(), sa.Column("order_id", sa.Text), sa.Column("place", sa.Integer), sa.Column("sku", sa.Text)
)


def test_the_identity_is_the_key_and_the_id_of_the_document() -> None:
    assert GAME_SESSIONS.identity({"id": "s", "accountId": "a"}) == Identity("GameSession", '["a"]', "s")
    assert ACCOUNTS.identity({"id": "a"}) == Identity("Account", '["a"]', "a")
    assert GAME_SESSIONS.identity_columns == ("account_id", "id")
    assert ACCOUNTS.identity_columns == ("id",)


def test_a_nested_or_hierarchical_key_is_found_by_its_path() -> None:
    nested = EntityMapping(
        Order, table=_table("id", "country", country=sa.Text()), container="O", partition_key="/address/country",
        key_columns=("country",),
    )  # fmt: skip
    document = {"id": "o", "address": {"country": "NZ"}}
    assert nested.identity(document).parts == ["NZ"]
    assert nested.row(document)["country"] == "NZ"
    assert "country" in nested.written_columns
    layered = EntityMapping(
        Order, table=_table("id", "tenant", "number"), container="O", partition_key=("/tenant", "/number")
    )
    assert layered.identity({"id": "o", "tenant": "t", "number": 7.0}).partition_key == '["t",7]'


@pytest.mark.parametrize(
    "document", [{}, {"id": None}, {"id": 1}, {"id": "s"}, {"id": "s", "accountId": {}}, {"id": "s", "accountId": []}]
)
def test_a_document_without_an_identity_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(DocumentRefusedError):
        GAME_SESSIONS.identity(document)


def test_a_key_that_the_model_would_read_as_another_is_refused() -> None:
    mapping = EntityMapping(Order, table=_table("id", "number"), container="O", partition_key="/number")
    assert mapping.row({"id": "o", "number": 5})["number"] == 5
    assert mapping.row({"id": "o", "number": 5.0})["number"] == 5
    for other in ("5", True):
        with pytest.raises(DocumentRefusedError, match="/number"):
            mapping.row({"id": "o", "number": other})


def test_ids_of_our_own_documents_and_keys_beyond_the_limit_are_refused() -> None:
    with pytest.raises(DocumentRefusedError, match="reserved"):
        ACCOUNTS.check({"id": "crossfeed-canary"})
    PENDING_SIGNUPS.check({"id": "s", "email": "x" * 2044})
    with pytest.raises(DocumentRefusedError, match="2048"):
        PENDING_SIGNUPS.check({"id": "s", "email": "x" * 2045})


def test_a_tombstone_has_the_key_a_ttl_and_unique_keys_that_nobody_else_has() -> None:
    mapping = EntityMapping(
        Order, table=_table("id", "tenant"), container="O", partition_key="/tenant", unique_keys=("/address/email",)
    )
    one, other = (Identity.of("Order", ["t"], id_) for id_ in ("a", "b"))
    tombstone = mapping.tombstone_content(one, 60)
    assert {name: tombstone[name] for name in ("id", "tenant", "ttl")} == {"id": "a", "tenant": "t", "ttl": 60}
    assert tombstone["address"] != mapping.tombstone_content(other, 60)["address"]
    assert mapping.identity(tombstone) == one


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"partition_key": "tenant"}, "no path"),
        ({"partition_key": "/"}, "no path"),
        ({"partition_key": ()}, "1 to 3 levels"),
        ({"partition_key": ("/tenant",) * 4}, "1 to 3 levels"),
        ({"partition_key": "/nowhere"}, "key_columns="),
        ({"partition_key": "/address/country"}, "key_columns="),
        ({"key_columns": ("nowhere",)}, "nowhere"),
        ({"partition_key": "/number"}, "primary key"),
        ({"body": "number"}, "JSONB"),
        ({"children": [ChildTable("nothing", lines, ("order_id",), "place")]}, "nothing"),
        ({"children": [ChildTable("tags", lines, ("order_id",), "place")]}, "pydantic model"),
        ({"children": [ChildTable("lines", lines, ("nowhere",), "place")]}, "nowhere"),
        ({"children": [ChildTable("lines", lines, ("order_id",), "place")]}, "parent="),
        ({"table": sa.Table("t", sa.MetaData(), sa.Column("tenant", sa.Text, primary_key=True))}, "'id'"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_and_says_what_does_not(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"table": _table("id", "tenant"), "container": "O", "partition_key": "/tenant"}
    EntityMapping(Order, **arguments)
    with pytest.raises(MappingError, match=named):
        EntityMapping(Order, **{**arguments, **change})


def test_mappings_are_found_by_name_model_and_container_and_come_in_the_order_of_their_names() -> None:
    mappings = Mappings(MAPPINGS)
    assert [mapping.name for mapping in mappings] == ["Account", "GameSession", "PendingSignup", "UserProfile"]
    assert len(mappings) == 4
    for mapping in MAPPINGS:
        assert mappings.named(mapping.name) is mappings.of(mapping.model)
        assert mappings.in_container(mapping.container) == (mapping,)
    for ask in (lambda: mappings.named("X"), lambda: mappings.of(Order), lambda: mappings.in_container("X")):
        with pytest.raises(MappingError):
            ask()


def test_two_mappings_of_one_kind_are_refused() -> None:
    with pytest.raises(MappingError, match="the same name: Account"):
        Mappings([*MAPPINGS, MAPPINGS[0]])
    with pytest.raises(MappingError, match="no mappings"):
        Mappings([])


def test_an_entity_remembers_what_it_was_read_as_and_a_new_one_nothing() -> None:
    order = Order(id="o")
    assert loaded(order) is None
    state = Loaded(Identity.of("Order", ["t"], "o"), Stamp(1, 2), "etag")
    mark_loaded(order, state)
    assert loaded(order) == state
    assert "_loaded" not in order.model_dump()


def test_a_number_that_is_none_is_refused_also_where_no_field_declares_it() -> None:
    for value in (float("nan"), [float("inf")], {"deep": float("-inf")}):
        with pytest.raises(DocumentRefusedError):
            ACCOUNTS.document(ACCOUNTS.model.model_validate({"id": "a", "Extra": value}))


def test_a_mapping_that_names_another_number_of_key_columns_is_refused() -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("a", sa.Text))
    with pytest.raises(MappingError, match="2 columns for 1 levels"):
        EntityMapping(Entity, table=table, container="C", partition_key="/id", key_columns=("id", "a"))
