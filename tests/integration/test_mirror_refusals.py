"""What keeps a document out of Postgres is judged rightly: by its code, its place in the feed and its type."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from changefeed.processor import Processor
from core.cosmos.documents import CosmosDocuments
from core.errors import StoreUnavailableError
from core.postgres.mirror_parking import MirrorPatience
from core.postgres.mirror_retry import retry_parked
from tests.integration.mirror_parking_steps import BOTH, SOON, Town, one_container
from tests.integration.relay_steps import until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity


@pytest.fixture
async def town(engine: AsyncEngine, cosmos: CosmosStore) -> Town:
    return await Town.founded(engine, cosmos)


async def execute(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL crossfeed.mirroring = 'on'")
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def objecting_trigger(engine: AsyncEngine) -> None:
    await execute(
        engine,
        "CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF left(NEW.email, 1) <> 'e' THEN RAISE EXCEPTION 'no email'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER object BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION object()",
    )


async def test_a_processor_tries_again_by_itself_while_its_feeds_are_silent(
    town: Town, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    processor = Processor(engine, cosmos, BOTH, patience=MirrorPatience(1000, 0.01, 0.02))
    stop = asyncio.Event()
    await town.pet("rex", "ana")
    running = asyncio.ensure_future(processor.run(stop))

    async def is_parked() -> bool:
        return (await town.parked()).documents > 0

    async def has_arrived() -> bool:
        return await town.pets.count("pets") == 1

    try:
        await until(is_parked)
        await execute(engine, "INSERT INTO people (id, email) VALUES ('ana', 'x')")
        await until(has_arrived)
    finally:
        stop.set()
        await running
    assert (await town.parked()).documents == 0


async def test_a_parent_whose_children_restrict_its_end_waits_for_theirs(town: Town, engine: AsyncEngine) -> None:
    await execute(
        engine,
        "ALTER TABLE pets DROP CONSTRAINT pets_owner_id_fkey,"
        " ADD FOREIGN KEY (owner_id) REFERENCES people (id) ON DELETE RESTRICT",
    )
    await town.mirrored(await town.person("ana", "x"))
    await town.mirrored(await town.pet("rex", "ana"), container="Pets")
    await town.people.delete("ana")
    assert (await town.mirrored(town.people.history[-1])).parked == 1
    await town.pets.delete("rex")
    await town.mirrored(town.pets.history[-1], container="Pets")
    assert (await town.emails(), await town.letters()) == ({}, [])


async def test_what_a_trigger_of_the_users_objects_to_holds_back_nobody_else(town: Town, engine: AsyncEngine) -> None:
    await objecting_trigger(engine)
    outcome = await town.mirrored(await town.person("a", "x"), await town.person("b", "e"))
    assert (outcome.applied, outcome.parked) == (1, 1)
    await execute(engine, "DROP TRIGGER object ON people")
    await town.retried(eager=True)
    assert await town.emails() == {"a": "x", "b": "e"}


async def test_a_trigger_that_objects_to_the_values_of_a_hand_over_leaves_the_rows_as_they_were(
    town: Town, engine: AsyncEngine
) -> None:
    await objecting_trigger(engine)
    await town.mirrored(await town.person("a", "e1"), await town.person("b", "e2"))
    swap = [await town.person("a", "e2"), await town.person("b", "e1")]
    assert (await town.mirrored(*swap, await town.person("c", "e3"))).parked == 2
    assert await town.emails() == {"a": "e1", "b": "e2", "c": "e3"}


@pytest.mark.parametrize("kind", ["varchar(9)", "char(9)", "short_text", "smallint", "money"])
async def test_values_of_a_short_type_can_be_swapped(town: Town, engine: AsyncEngine, kind: str) -> None:
    await execute(
        engine,
        "CREATE DOMAIN short_text AS varchar(9)",
        "UPDATE people SET note = ''",
        "ALTER TABLE people DROP COLUMN note",
        f"ALTER TABLE people ALTER email TYPE {kind} USING email::{kind}",
    )
    await town.mirrored(await town.person("a", "11"), await town.person("b", "22"))
    outcome = await town.mirrored(await town.person("a", "22"), await town.person("b", "11"))
    assert (outcome.applied, outcome.parked) == (2, 0)


async def test_addresses_that_are_checked_can_be_swapped(town: Town, engine: AsyncEngine) -> None:
    await execute(engine, "ALTER TABLE people ADD CHECK (email ~ '^[^@]+@[^@]+$')")
    await town.mirrored(await town.person("a", "1@x"), await town.person("b", "2@x"))
    outcome = await town.mirrored(await town.person("a", "2@x"), await town.person("b", "1@x"))
    assert (outcome.applied, outcome.parked) == (2, 0)


async def test_an_older_refused_state_that_comes_again_does_not_take_the_place_of_a_newer_one(town: Town) -> None:
    first, between = await town.person("a", "a\0b"), await town.person("a", "good")
    await town.mirrored(await town.person("a", "a\0c"))
    await town.mirrored(first)
    await town.mirrored(between)
    assert len(await town.letters()) == 1, "the newest state is not in Postgres, and nothing else says so"


async def test_an_older_refused_state_that_comes_again_does_not_make_what_is_parked_forgotten(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"))
    older, parked = await town.person("b", "a\0b"), await town.person("b", "x")
    await town.mirrored(parked)
    await town.mirrored(older)
    assert (await town.parked()).documents == 1
    await town.mirrored(await town.person("a", "y"))
    assert await town.emails() == {"a": "y", "b": "x"}
    assert await town.letters() == []


async def test_a_document_that_becomes_one_of_another_type_does_so_also_if_the_clock_stepped_back(
    engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    steps = await one_container(engine, cosmos)
    await steps.foreign({"id": "p", "type": "parent", "email": "f"})
    await steps.foreign({"id": "a", "type": "parent", "email": "e"})
    await steps.foreign({"id": "a", "type": "child", "owner_id": "p"})
    owner, first, second = steps.history
    await steps.apply([owner, first, second | {"_ts": first["_ts"] - 30}])
    assert (await steps.count("people"), await steps.count("pets")) == (1, 1)


async def test_a_container_that_does_not_answer_holds_back_what_is_parked_of_no_other(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"))
    await town.mirrored(await town.person("b", "x"))
    await town.mirrored(await town.pet("rex", "nobody"), container="Pets")
    await execute(town.engine, "UPDATE people SET email = 'y'")

    class Away(CosmosDocuments):
        away: tuple[str, ...] = ("Pet",)

        async def read(self, identity: Identity) -> Document | None:
            if identity.entity in self.away:
                msg = "no answer"
                raise StoreUnavailableError(msg)
            return await super().read(identity)

    reader = Away(town.store, BOTH)
    phase = await town.phase()
    await town.make_due()
    async with town.engine.begin() as connection:
        await retry_parked(connection, BOTH, phase, reader, SOON)
        attempts = await connection.exec_driver_sql("SELECT entity, attempts FROM crossfeed.mirror_parked")
        assert [tuple(row) for row in attempts] == [("Pet", 1)]
    assert await town.emails() == {"a": "y", "b": "x"}
    await town.make_due()
    with pytest.raises(StoreUnavailableError):
        async with town.engine.begin() as connection:
            await retry_parked(connection, BOTH, phase, reader, SOON)


async def test_what_was_parked_before_its_key_was_another_one_holds_back_nobody(town: Town) -> None:
    await town.mirrored(await town.person("a", "x"))
    await town.mirrored(await town.person("b", "x"))
    await execute(
        town.engine,
        "INSERT INTO crossfeed.mirror_parked (entity, partition_key, id, etag, ts, lsn, reason, retry_at)"
        """ VALUES ('Person', '["a","b"]', 'odd', 'e', 1, 1, 'r', clock_timestamp() - interval '1 s')""",
    )
    await town.mirrored(await town.person("a", "y"))
    assert await town.emails() == {"a": "y", "b": "x"}
    assert (await town.parked()).documents == 0
    assert len(await town.letters()) == 1
