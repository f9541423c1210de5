"""Mappings whose schema, tables, columns, properties and types carry a text that means something in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, Field, create_model

from core.children import ChildTable
from core.entity import Entity
from core.mapping import EntityMapping
from core.postgres import capture
from core.postgres.names import quoted

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

HOSTILE = {
    "a double quote": 'a"b',
    "a quote that ends a text": "a'); DROP TABLE precious; --",
    "a dot": "a.b",
    "a semicolon": "a; DROP TABLE precious",
    "a comment": "a--b/*",
    "a colon": "a:b::c:=d",
    "a backslash before a colon": "a\\:b\\",
    "dollar quotes": "a$q0$ $q1$ $$; DROP TABLE precious; -- $q0",
    "braces": "a{b}{0}{table}",
    "a reserved word": "select",
    "capitals and blanks": " A b ",
    "what generated functions fill in": "crossfeed_this_table",
    "other blanks": "a\n\t\rb",
    "other scripts": "ä名😀",
}
"""Texts by what is wrong with them."""

ALL_AT_ONCE = "a'\"b.c;--/*:d::\\:e\\$q0$$${0} SELECT\n ä😀 $q0"
"""Every kind of them in the 63 bytes that Postgres gives a name."""


def field(text: str) -> str:
    """A field's name, and so a column's, that carries the text."""
    return f"f {text}"


def hostile(text: str) -> EntityMapping[Any]:
    """An aggregate with a table below it, in a schema of its own; every name but `id` carries the text."""
    metadata = sa.MetaData(schema=f"s {text}")
    key, value, lines = f"k {text}", field(text), f"l {text}"
    root = sa.Table(
        f"t {text}",
        metadata,
        sa.Column(key, sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column(value, sa.Text, nullable=False),
    )
    parents = [f"p {text}", f"q {text}"]
    below = sa.Table(
        f"c {text}",
        metadata,
        *(sa.Column(name, sa.Text, primary_key=True) for name in parents),
        sa.Column(f"n {text}", sa.Integer, primary_key=True),
        sa.Column(value, sa.Text, nullable=False),
        sa.ForeignKeyConstraint(parents, [root.c[key], root.c.id]),
    )
    of_item: dict[str, Any] = {value: (str, Field("", alias=f"v/{text}"))}
    item = create_model("Item", __base__=BaseModel, **of_item)
    of_root: dict[str, Any] = {
        key: (str, Field(..., alias="owner")),
        value: (str, Field("", alias=f"p/{text}")),
        lines: (list[item], Field(default_factory=list, alias=f"l/{text}")),
        f"b {text}": (str, Field("", alias=f"b/{text}")),
    }
    return EntityMapping(
        create_model(f"E{abs(hash(text))}", __base__=Entity, **of_root),
        table=root,
        container="Hostile",
        partition_key="/owner",
        name=f"e {text}",
        children=[ChildTable(lines, below, parent=tuple(parents), position=f"n {text}")],
    )


async def install_hostile(engine: AsyncEngine, mapping: EntityMapping[Any]) -> None:
    """Create its tables, capture them twice, and put something precious beside them."""
    async with engine.begin() as connection:
        assert mapping.table.schema is not None
        await connection.exec_driver_sql("CREATE TABLE precious ()")
        await connection.exec_driver_sql(f"CREATE SCHEMA {quoted(mapping.table.schema)}")
        await connection.run_sync(mapping.table.metadata.create_all)
        await connection.run_sync(capture.install, mapping)
        await connection.run_sync(capture.remove, mapping.name)
        await connection.run_sync(capture.install, mapping)
