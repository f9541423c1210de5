"""G8 towards Postgres: whatever one document, one model or one constraint does, the rest of its batch is applied."""

from __future__ import annotations

import traceback
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, field_validator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from core.cosmos.client import open_cosmos
from core.domain.account import Account
from core.entity import Entity
from core.errors import AlreadyExistsError, ConcurrencyError, ConfigurationError, DocumentRefusedError, MappingError
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase
from core.postgres import capture
from core.postgres.engine import open_engine
from core.postgres.failures import translated
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from core.projection import Projection
from core.query import Equals, Query
from tests.integration.mirror_steps import Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mapping import EntityMapping as Mapping
    from core.settings import Settings

KINDS = {"a": "apple"}


class Parent(Entity):
    """What the others refer to."""


class Child(Entity):
    """Refers to a parent by a deferred foreign key."""

    parent_id: str


class Numbered(Entity):
    """Its partition key lives in an integer column."""

    tenant: Any


class Picky(Entity):
    """Its validator fails in a way of its own."""

    kind: str

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        return KINDS[value] and value


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.Text, primary_key=True)


async def _mirror(
    engine: AsyncEngine, settings: Settings, metadata: sa.MetaData, *mappings: Mapping[Any]
) -> Callable[..., Any]:
    """Set up tables and containers while Cosmos DB is primary; return what applies documents of the last mapping."""
    known = Mappings(mappings)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for mapping in known:
            await connection.run_sync(capture.install, mapping)
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")

    async def apply(*documents: dict[str, Any]) -> tuple[int, int]:
        async with open_cosmos(settings) as store:
            await store.provision(known)
            steps = Steps(engine, store, known, mappings[-1])
            for document in documents:
                await steps.foreign(document)
            outcome = await steps.apply(steps.history)
            return outcome.applied, outcome.dead_lettered

    return apply


async def test_a_deferred_constraint_is_the_fault_of_its_document_alone(
    engine: AsyncEngine, settings: Settings
) -> None:
    metadata = sa.MetaData()
    parents = sa.Table("parents", metadata, _id())
    reference = sa.ForeignKey("parents.id", deferrable=True, initially="DEFERRED")
    children = sa.Table("children", metadata, _id(), sa.Column("parent_id", sa.Text, reference, nullable=False))
    apply = await _mirror(
        engine,
        settings,
        metadata,
        EntityMapping(Parent, table=parents, container="Parents", partition_key="/id"),
        EntityMapping(Child, table=children, container="Children", partition_key="/id"),
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL crossfeed.mirroring = 'on'")
        await connection.exec_driver_sql("INSERT INTO parents (id) VALUES ('there')")
    orphan, fine = {"id": "orphan", "parent_id": "nowhere"}, {"id": "fine", "parent_id": "there"}
    assert await apply(orphan, fine) == (1, 0)
    async with engine.connect() as connection:
        parked = await connection.exec_driver_sql("SELECT id FROM crossfeed.mirror_parked")
        assert list(parked.scalars()) == ["orphan"], "its parent may come yet"


async def test_a_key_that_its_column_cannot_hold_is_a_dead_letter(engine: AsyncEngine, settings: Settings) -> None:
    metadata = sa.MetaData()
    tenant = sa.Column("tenant", sa.Integer, primary_key=True, autoincrement=False)
    table = sa.Table("numbered", metadata, tenant, _id())
    mapping = EntityMapping(Numbered, table=table, container="Numbered", partition_key="/tenant")
    apply = await _mirror(engine, settings, metadata, mapping)
    assert await apply({"id": "bad", "tenant": "abc"}, {"id": "good", "tenant": 5}) == (1, 1)


async def test_a_validator_that_raises_anything_condemns_its_document_alone(
    engine: AsyncEngine, settings: Settings
) -> None:
    metadata = sa.MetaData()
    table = sa.Table("picky", metadata, _id(), sa.Column("kind", sa.Text))
    mapping = EntityMapping(Picky, table=table, container="Picky", partition_key="/id")
    apply = await _mirror(engine, settings, metadata, mapping)
    assert await apply({"id": "bad", "kind": "z"}, {"id": "good", "kind": "a"}) == (1, 1)


class Loose(BaseModel):
    """A model of nothing but values."""

    value: Any


class Strict(BaseModel):
    """A model whose field has the column's own type."""

    value: uuid.UUID | None


@pytest.mark.parametrize(
    "kind",
    [
        sa.LargeBinary(),
        sa.Interval(),
        sa.REAL(),
        sa.Float(24),
        sa.Numeric(10, 2),
        sa.CHAR(8),
        sa.Uuid(),
        sa.Date(),
        sa.Time(),
        sa.ARRAY(sa.DateTime(timezone=True)),
        sa.ARRAY(sa.REAL()),
    ],
    ids=repr,
)
def test_a_column_that_would_change_values_in_silence_is_refused(kind: sa.types.TypeEngine[Any]) -> None:
    with pytest.raises(MappingError, match=r"Loose\.value"):
        Projection(Loose, sa.Table("t", sa.MetaData(), sa.Column("value", kind)))


def test_columns_that_give_values_back_as_they_were_are_welcome() -> None:
    for kind in (sa.Text(), sa.String(9), sa.Integer(), sa.Boolean(), JSONB(), sa.Double(), sa.Numeric(), sa.Float()):
        Projection(Loose, sa.Table("t", sa.MetaData(), sa.Column("value", kind)))
    Projection(Strict, sa.Table("t", sa.MetaData(), sa.Column("value", sa.Uuid())))


def test_an_identity_column_that_takes_no_value_is_refused() -> None:
    column = sa.Column("value", sa.Integer, sa.Identity(always=True))
    with pytest.raises(MappingError, match="GENERATED ALWAYS"):
        Projection(Loose, sa.Table("t", sa.MetaData(), column))


async def test_a_database_that_rounds_numbers_as_it_spells_them_is_refused(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with engine.begin() as connection:
        name = (await connection.exec_driver_sql("SELECT current_database()")).scalar_one()
        await connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET extra_float_digits = 0')
    with pytest.raises(ConfigurationError, match="extra_float_digits"):
        async with open_engine(settings):
            pass


async def _primary(engine: AsyncEngine) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")


async def test_a_unit_that_went_on_after_a_refusal_does_not_claim_to_have_committed(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    await _primary(engine)
    async with PostgresUnitOfWork(engine, mappings) as work:
        await work[Account].add(Account(id="there"))
        await work.commit()
    async with PostgresUnitOfWork(engine, mappings) as work:
        await work[Account].add(Account(id="new"))
        with pytest.raises(AlreadyExistsError):
            await work[Account].add(Account(id="there"))
        with pytest.raises(ConcurrencyError):
            await work.commit()
    async with PostgresUnitOfWork(engine, mappings) as work:
        assert not await work[Account].exists("new")


async def test_no_value_is_in_what_an_error_says_or_was_caused_by(engine: AsyncEngine) -> None:
    await _primary(engine)
    broken = "INSERT INTO accounts (id, email, role) VALUES ('a', %(email)s, NULL)"
    async with engine.connect() as connection:
        with pytest.raises(DocumentRefusedError) as caught, translated("a write"):
            await connection.exec_driver_sql(broken, {"email": "secret@example.org"})
        await connection.rollback()
        with pytest.raises(DBAPIError) as raw:
            await connection.exec_driver_sql(broken, {"email": "secret@example.org"})
    told = "".join(traceback.format_exception(caught.value))
    assert "NotNullViolation" in told
    assert "secret" not in told
    assert "parameters hidden" in str(raw.value)


async def test_a_value_that_no_text_can_be_is_refused_and_not_called_an_outage(
    engine: AsyncEngine, mappings: Mappings
) -> None:
    async with PostgresUnitOfWork(engine, mappings) as work:
        with pytest.raises(DocumentRefusedError):
            await work[Account].list(Query((Equals("email", "a\0b"),)))
