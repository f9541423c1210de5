"""Look-ups answer as Postgres does: defaults for what is left out, case letter by letter, the order of ids."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from pydantic import Field

from core.cosmos.client import open_cosmos
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.entity import Entity
from core.instant import Instant
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.query import Equals, NotBefore, OneOf, Query
from tests.cosmos.example import MAPPINGS, NOTES, Line, Note, note, settings_for
from tests.cosmos.steps import unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.local.cosmos.server import CosmosServer


async def put(store: CosmosStore, *documents: dict[str, Any]) -> None:
    for document in documents:
        await store.container(NOTES).upsert_item(document)


async def ids(store: CosmosStore, *where: Any, **query: Any) -> list[str]:
    return [entity.id for entity in await unit(store)[Note].list(Query(where, **query))]


async def test_what_a_document_leaves_out_counts_as_the_default_whatever_its_case(store: CosmosStore) -> None:
    await put(store, {"id": "bare"}, note("empty"), note("null", Created=None), note("set", Title="x"))
    for ignore_case in (False, True):
        assert await ids(store, Equals("title", "", ignore_case)) == ["bare", "empty", "null"]
        assert await ids(store, Equals("title", "x", ignore_case)) == ["set"]
        assert await unit(store)[Note].count(Query((Equals("title", "", ignore_case),))) == 3
        assert await ids(store, Equals("created", None, ignore_case)) == ["bare", "empty", "null", "set"]
    assert await ids(store, OneOf("title", ("", "x"))) == ["bare", "empty", "null", "set"]
    assert await ids(store, OneOf("created", (None,))) == ["bare", "empty", "null", "set"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Equals("mood", "CALM", ignore_case=True), ["bare", "calm"]),
        (Equals("mood", "Calm"), ["bare", "calm"]),
        (Equals("mood", None, ignore_case=True), ["null"]),
        (Equals("mood", None), ["null"]),
        (OneOf("mood", ("Calm", None)), ["bare", "calm", "null"]),
        (OneOf("mood", ("wild", None)), ["null", "wild"]),
        (Equals("made", "FACTORY", ignore_case=True), ["bare"]),
        (Equals("made", "factory"), ["bare"]),
        (Equals("alone", None), ["bare", "null"]),
        (Equals("alone", "x", ignore_case=True), ["calm"]),
    ],
)
async def test_a_default_that_is_made_and_a_null_beside_a_default_are_told_apart(
    store: CosmosStore, where: Any, expected: list[str]
) -> None:
    class Mooded(Entity):
        mood: str | None = Field("Calm", alias="Mood")
        made: str = Field(default_factory=lambda: "factory", alias="Made")
        alone: str | None = Field(None, alias="Alone")

    moods = EntityMapping(
        Mooded,
        table=sa.Table("moods", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True)),
        container="Notes",
        partition_key="/id",
    )
    await put(
        store,
        {"id": "bare"},
        {"id": "calm", "Mood": "calm" if where.field == "mood" and getattr(where, "ignore_case", False) else "Calm"},
        {"id": "wild", "Mood": "wild", "Made": "m", "Alone": "y"},
        {"id": "null", "Mood": None, "Made": "m", "Alone": None},
    )
    await store.container(NOTES).upsert_item(
        {**dict(await store.container(NOTES).read_item("calm", "calm")), "Made": "m", "Alone": "X"}
    )
    async with CosmosUnitOfWork(store, Mappings([moods]), 1) as work:
        assert [found.id for found in await work[Mooded].list(Query((where,)))] == expected
        assert await work[Mooded].count(Query((where,))) == len(expected)


async def test_case_is_ignored_letter_by_letter_before_and_after_a_commit(store: CosmosStore) -> None:
    async with unit(store) as work:
        await work[Line].add(Line(id="l1", account="a", text="STRASSE", code="1"))
        await work[Line].add(Line(id="l2", account="a", text="Straße", code="2"))
        for _ in range(2):
            for asked, expected in (("strasse", ["l1"]), ("STRAßE", ["l2"])):
                query = Query((Equals("text", asked, ignore_case=True),))
                assert [found.id for found in await work[Line].list(query)] == expected
            await work.commit()


async def test_an_old_spelling_of_a_value_is_found_also_where_case_is_ignored(store: CosmosStore) -> None:
    class Title(StrEnum):
        FREE = "Free"

        @property
        def spellings(self) -> tuple[Any, ...]:
            return ("Free", "0")

    await put(store, note("n1", Title="free"), note("n2", Title="0"), note("n3", Title="Paid"))
    assert await ids(store, Equals("title", Title.FREE, ignore_case=True)) == ["n1", "n2"]


@pytest.mark.parametrize("limit", [None, 0, 1, 3, 300])
async def test_without_an_order_entities_come_in_the_order_of_their_ids(store: CosmosStore, limit: int | None) -> None:
    names = ["b", "B", "a", "é", "z", "10", "9", "\U0001f600", "\uffee", "a-1", "a1"]
    await put(store, *(note(name, Title="x", Created="2026-01-31T08:00:00Z") for name in names), note("0", Title="y"))
    for where in (Equals("title", "X", ignore_case=True), NotBefore("created", Instant.parse("2026-01-01"))):
        expected = sorted(names)[:limit]
        assert await ids(store, where, limit=limit) == expected
        query = Query((where,), limit=limit)
        assert [entity.id async for entity in unit(store)[Note].stream(query)] == expected


async def test_without_an_order_ids_are_in_order_across_physical_partitions_too(server: CosmosServer) -> None:
    async with open_cosmos(settings_for(server)) as store:
        await store.provision(MAPPINGS, throughput=30_000)
        names = [uuid.uuid4().hex for _ in range(130)]
        await put(store, *map(note, names))
        assert [entity.id async for entity in unit(store)[Note].stream()] == sorted(names)
        assert await ids(store, limit=7) == sorted(names)[:7]
