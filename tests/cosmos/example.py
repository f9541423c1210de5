"""A small domain for the tests of core.cosmos: one container keyed by id, one with many documents per key."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import Field, SecretStr
from sqlalchemy.dialects.postgresql import JSONB

from core.entity import Entity
from core.identity import Identity
from core.instant import Instant
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.settings import Settings

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.publish import Publish


class Note(Entity):
    """Its key is its id."""

    title: str = Field("", alias="Title")
    tags: list[str] = Field(default_factory=list, alias="Tags")
    size: int = Field(0, alias="Size")
    created: Instant | None = Field(None, alias="Created")


class Line(Entity):
    """Many of one account live in one logical partition."""

    account: str | None = Field(alias="accountId")
    text: str = Field("", alias="Text")
    code: str | None = Field(None, alias="Code")


METADATA = sa.MetaData()
NOTES: EntityMapping[Note] = EntityMapping(
    Note,
    table=sa.Table(
        "notes",
        METADATA,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("title", sa.Text),
        sa.Column("tags", JSONB),
        sa.Column("size", sa.Integer),
        sa.Column("created", sa.DateTime(timezone=True)),
    ),
    container="Notes",
    partition_key="/id",
)
LINES: EntityMapping[Line] = EntityMapping(
    Line,
    table=sa.Table(
        "lines",
        METADATA,
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("text", sa.Text),
        sa.Column("code", sa.Text),
    ),
    container="Lines",
    partition_key="/accountId",
    unique_keys=("/Code",),
)


class Deep(Entity):
    """Its key has two levels, one of them nested."""

    tenant: str = Field(alias="tenant")
    place: dict[str, Any] = Field(alias="place")


DEEPS: EntityMapping[Deep] = EntityMapping(
    Deep,
    table=sa.Table(
        "deeps",
        METADATA,
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("city", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
    ),
    container="Deeps",
    partition_key=("/tenant", "/place/city"),
    key_columns=("tenant", "city"),
)
MAPPINGS = Mappings([NOTES, LINES, DEEPS])


class Kept:
    """A quarantine that remembers."""

    def __init__(self) -> None:
        self.documents: list[tuple[Identity, Document]] = []
        self.confirmed: list[Identity] = []

    async def untaken(self, item: Publish, found: Document) -> None:
        self.documents.append((item.identity, found))

    async def confirm(self, item: Publish) -> None:
        self.confirmed.append(item.identity)


def settings_for(server: Any, **overrides: Any) -> Settings:
    return Settings(
        cosmos_endpoint=server.endpoint,
        cosmos_key=SecretStr(server.key),
        cosmos_database=overrides.pop("cosmos_database", f"test-{uuid.uuid4().hex[:8]}"),
        **overrides,
    )


def note_identity(id_: str = "n1") -> Identity:
    return Identity.of("Note", [id_], id_)


N1 = note_identity("n1")


def note(id_: str = "n1", **content: Any) -> Document:
    return {"id": id_, "Title": "", "Tags": [], "Size": 0, "Created": None, **content}
