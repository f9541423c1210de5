"""What the tests of parking in the mirror share: people with unique values, and pets that refer to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from changefeed.mirror import Mirror
from core.cosmos.documents import CosmosDocuments
from core.discriminator import Discriminator
from core.entity import Entity
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase
from core.postgres import capture
from core.postgres.mirror_parking import MirrorPatience, ParkedInMirror, parked_in_mirror
from core.postgres.mirrored_rows import bury, put
from core.postgres.phases import open_phase, read_phase
from tests.integration.mirror_steps import Steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import pytest
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.phases import PhaseRow
    from core.postgres.mirrored_batch import Outcome
    from core.postgres.pipeline import Sends


class Person(Entity):
    """Has an email of his own, and perhaps a badge and a seat."""

    email: str
    badge: str | None = None
    seat: str | None = None


class Pet(Entity):
    """Belongs to a person."""

    owner_id: str


class Ape(Pet):
    """A pet whose name comes first."""


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.Text, primary_key=True)


_metadata = sa.MetaData()
_people = sa.Table(
    "people",
    _metadata,
    _id(),
    sa.Column("email", sa.Text, nullable=False, unique=True),
    sa.Column("badge", sa.Text),
    sa.Column("seat", sa.Text),
    sa.Column("note", sa.Text),  # none of the document's
)
sa.Index("people_badge", sa.func.lower(_people.c.badge), unique=True)
_pets = sa.Table("pets", _metadata, _id(), sa.Column("owner_id", sa.Text, sa.ForeignKey("people.id"), nullable=False))
PEOPLE = EntityMapping(Person, table=_people, container="People", partition_key="/id")
PETS = EntityMapping(Pet, table=_pets, container="Pets", partition_key="/id")
BOTH = Mappings([PEOPLE, PETS])

SOON = MirrorPatience(attempts=3, first_s=0.001, longest_s=0.002)
NEVER = MirrorPatience(attempts=1000, first_s=600, longest_s=600)
"""Nothing is due: what is tried again is tried beside other batches."""


class Town:
    """People and pets in Cosmos DB, and the mirror that takes them to Postgres."""

    def __init__(self, engine: AsyncEngine, store: CosmosStore) -> None:
        self.engine = engine
        self.store = store
        self.people = Steps(engine, store, BOTH, PEOPLE)
        self.pets = Steps(engine, store, BOTH, PETS)
        self.patience = NEVER

    @classmethod
    async def founded(cls, engine: AsyncEngine, store: CosmosStore) -> Town:
        async with engine.begin() as connection:
            await connection.run_sync(_metadata.create_all)
            await connection.exec_driver_sql(
                "ALTER TABLE people ADD CONSTRAINT one_per_seat EXCLUDE USING hash (seat WITH =)"
            )
            for mapping in BOTH:
                await connection.run_sync(capture.install, mapping)
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
        await store.provision(BOTH)
        return cls(engine, store)

    @property
    def mirror(self) -> Mirror:
        """A mirror that has not tried anything yet."""
        return Mirror(self.engine, CosmosDocuments(self.store, BOTH), BOTH, self.patience)

    async def phase(self) -> PhaseRow:
        async with self.engine.connect() as connection:
            return await read_phase(connection)

    async def person(self, id_: str, email: str, **values: Any) -> Document:
        """Write a person as the legacy application does; return the document as the feed shows it."""
        await self.people.foreign({"id": id_, "email": email, **values})
        return self.people.history[-1]

    async def pet(self, id_: str, owner_id: str) -> Document:
        await self.pets.foreign({"id": id_, "owner_id": owner_id})
        return self.pets.history[-1]

    async def mirrored(self, *documents: Document, container: str = "People") -> Outcome:
        """Apply a batch, and whatever it makes possible."""
        return await self.mirror.apply(container, documents, await self.phase())

    async def retried(self, *, eager: bool = False) -> None:
        phase = await self.phase()
        while await self.mirror.retry_parked(phase, eager=eager):
            pass

    async def emails(self) -> dict[str, str]:
        async with self.engine.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT id, email FROM people")
            return dict(map(tuple, rows))

    async def parked(self) -> ParkedInMirror:
        async with self.engine.connect() as connection:
            return await parked_in_mirror(connection)

    async def letters(self) -> list[str]:
        async with self.engine.connect() as connection:
            return list((await connection.exec_driver_sql("SELECT reason FROM crossfeed.dead_letter")).scalars())

    async def make_due(self) -> None:
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE crossfeed.mirror_parked SET retry_at = clock_timestamp()")


def counted_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many documents each statement that writes or removes rows is about, from here on."""
    tried: list[int] = []

    def counted(write: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def and_count(connection: Sends, mapping: EntityMapping[Any], changes: Sequence[Any]) -> None:
            if changes:
                tried.append(len(changes))
            await write(connection, mapping, changes)

        return and_count

    monkeypatch.setattr("core.postgres.mirrored_writing.put", counted(put))
    monkeypatch.setattr("core.postgres.mirrored_writing.bury", counted(bury))
    return tried


async def one_container(engine: AsyncEngine, store: CosmosStore) -> Steps:
    """Set up people and pets in one container, the type that refers to the other first by its name."""
    together = Mappings(
        [
            EntityMapping(model, table=table, container="Town", partition_key="/id", discriminator=_type(value))
            for model, table, value in ((Person, _people, "parent"), (Ape, _pets, "child"))
        ]
    )
    async with engine.begin() as connection:
        await connection.run_sync(_metadata.create_all)
        for mapping in together:
            await connection.run_sync(capture.install, mapping)
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    await store.provision(together)
    return Steps(engine, store, together, together.of(Person))


def _type(value: str) -> Discriminator:
    return Discriminator(properties=("type",), values=(value,))
