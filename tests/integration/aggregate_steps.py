"""Orders with lines in a table below theirs, for tests of aggregates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from pydantic import BaseModel, Field

from core.children import ChildTable
from core.entity import Entity
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.postgres import capture
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.relay_steps import make_primary

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


class Line(BaseModel):
    item: str = ""


class Order(Entity):
    lines: list[Line] = Field(default_factory=list)


class Stock(Entity):
    sold: int = 0


def orders(foreign_key: str = "NO ACTION") -> Mappings:
    """The mappings of orders with lines, and of the stock that they sell."""
    metadata = sa.MetaData()
    key = sa.ForeignKey("orders.id", ondelete=foreign_key, onupdate=foreign_key)
    lines = sa.Table(
        "order_lines",
        metadata,
        sa.Column("order_id", sa.Text, key, primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True),
        sa.Column("item", sa.Text, nullable=False),
    )
    root = sa.Table("orders", metadata, sa.Column("id", sa.Text, primary_key=True))
    children = [ChildTable("lines", lines, parent=("order_id",), position="line")]
    stock = sa.Table(
        "stock", metadata, sa.Column("id", sa.Text, primary_key=True), sa.Column("sold", sa.Integer, nullable=False)
    )
    return Mappings(
        [
            EntityMapping(Order, table=root, container="Orders", partition_key="/id", children=children),
            EntityMapping(Stock, table=stock, container="Stock", partition_key="/id"),
        ]
    )


MAPPED = orders()


async def install(engine: AsyncEngine, mapped: Mappings) -> None:
    async with engine.begin() as connection:
        for mapping in mapped:
            await connection.run_sync(mapping.table.metadata.create_all)
            await connection.run_sync(capture.install, mapping)


async def one_order(engine: AsyncEngine) -> None:
    """Make Postgres primary and have the repository write one order with one line."""
    await make_primary(engine)
    async with PostgresUnitOfWork(engine, MAPPED) as work:
        await work[Order].add(Order(id="o", lines=[Line(item="old")]))
        await work.commit()


async def lines(engine: AsyncEngine) -> list[tuple[str, str]]:
    async with engine.connect() as connection:
        found = await connection.execute(sa.text("SELECT order_id, item FROM order_lines ORDER BY 1, line"))
        return [(row.order_id, row.item) for row in found]
