"""A mapping that does not fit its table is refused at start, with the place and the cure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from pydantic import Field
from sqlalchemy import text

from core.children import ChildTable
from core.entity import Entity
from core.errors import MappingError
from core.mapping import EntityMapping
from core.postgres import capture
from core.postgres.fit import check_fit

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings


async def test_what_capture_installed_fits(engine: AsyncEngine, mappings: Mappings) -> None:
    async with engine.connect() as connection:
        await check_fit(connection, mappings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE accounts", "mapping Account: there is no table accounts"),
        ("ALTER TABLE accounts DROP COLUMN role", "no column role"),
        ("ALTER TABLE accounts DROP COLUMN crossfeed_lsn", r"no columns crossfeed_lsn: call .*capture.install"),
        ("ALTER TABLE accounts DROP COLUMN crossfeed_extra", r"no columns crossfeed_extra: call .*capture.install"),
        ("ALTER TABLE accounts DROP CONSTRAINT accounts_pkey", r"no primary key or unique constraint .*\(id\)"),
        (
            "ALTER TABLE game_sessions DROP CONSTRAINT game_sessions_pkey, ADD UNIQUE (id)",
            r"constraint on exactly \(account_id, id\)",
        ),
        (
            "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey, ADD UNIQUE (id), ALTER id DROP NOT NULL",
            "column id is part of the document's identity and may be NULL",
        ),
        ("ALTER TABLE pending_signups ALTER failed_attempts DROP DEFAULT, ALTER failed_attempts TYPE text", "is text"),
        ("ALTER TABLE pending_signups ALTER created_at DROP DEFAULT, ALTER created_at TYPE text", "created_at is text"),
        ("ALTER TABLE accounts ALTER settings DROP DEFAULT, ALTER settings TYPE text", "settings is text"),
        ("ALTER TABLE accounts ADD COLUMN region text NOT NULL", "region must be given"),
        ("DROP TRIGGER crossfeed_capture_update ON accounts", "its writes are not captured"),
        ("DELETE FROM crossfeed.captured WHERE entity = 'Account'", "its writes are not captured"),
        ("UPDATE crossfeed.captured SET identity = '{email}' WHERE entity = 'Account'", r"for the key \(email\)"),
    ],
)
async def test_what_does_not_fit_is_named(engine: AsyncEngine, mappings: Mappings, change: str, said: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(change))
        with pytest.raises(MappingError, match=said):
            await check_fit(connection, mappings)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE accounts ADD COLUMN region text NOT NULL DEFAULT '', ADD n int GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE accounts ALTER role TYPE varchar(9)",
        "CREATE DOMAIN name_of AS text; ALTER TABLE accounts ALTER display_name TYPE name_of",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey; CREATE UNIQUE INDEX ON accounts (id) INCLUDE (email)",
        "ALTER TABLE pending_signups ALTER failed_attempts TYPE integer",
    ],
)
async def test_what_carries_the_same_values_fits(engine: AsyncEngine, mappings: Mappings, change: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(change)
        await check_fit(connection, mappings)


async def test_everything_that_does_not_fit_is_named_at_once(engine: AsyncEngine, mappings: Mappings) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE accounts DROP COLUMN role; DROP TABLE user_profiles")
        with pytest.raises(MappingError) as refused:
            await check_fit(connection, mappings)
    assert "no column role" in str(refused.value)
    assert "there is no table user_profiles" in str(refused.value)


class Item(Entity):
    name: str = ""


class Basket(Entity):
    items: list[Item] = Field(default_factory=list)


async def test_child_tables_are_looked_at_as_well(engine: AsyncEngine) -> None:
    metadata = sa.MetaData()
    baskets = sa.Table("baskets", metadata, sa.Column("id", sa.Text, primary_key=True))
    items = sa.Table(
        "items",
        metadata,
        sa.Column("basket_id", sa.Text, sa.ForeignKey("baskets.id"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text),
        sa.Column("name", sa.Text),
    )
    mapping = EntityMapping(
        Basket,
        table=baskets,
        container="Baskets",
        partition_key="/id",
        children=[ChildTable("items", items, ("basket_id",), "place")],
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.run_sync(capture.install, mapping)
        await check_fit(connection, [mapping])
        await connection.exec_driver_sql("ALTER TABLE items DROP COLUMN name, DROP COLUMN crossfeed_spelling")
        with pytest.raises(MappingError, match=r"table items of items: no column name.*no columns crossfeed_spelling"):
            await check_fit(connection, [mapping])
