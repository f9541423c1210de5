"""Erasing removes a person from both stores and from all that is kept beside them, in every phase, and says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pydantic import SecretStr

from changefeed.processor import Processor
from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.events import AccountRegistered
from core.domain.pending_signup import PendingSignup
from core.errors import ConfigurationError
from core.identity import Identity
from core.migration.erase import TTL_S, erase
from core.phases import Phase
from core.postgres import dead_letters
from core.postgres.dead_letters import DeadLetter, Direction
from core.postgres.keyset import tombstones_after
from functions.cli.erase import _identity
from outbox.publisher import Publisher
from outbox.relay import open_relay
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.entity import Entity
    from core.mappings import Mappings
    from core.migration.erase import Erased
    from core.settings import Settings

SECRET = "somebody-in-particular"
EMAIL = f"{SECRET}@example.org"
PHASES = list(Phase)


@dataclass
class Place:
    """One installation, in which somebody is erased."""

    settings: Settings
    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings

    async def put(self, phase: Phase) -> None:
        await switch_phase(self.engine, self.store, self.mappings, phase, who="test", why="test")

    async def add(self, entity: Entity, *, event: bool = False) -> None:
        async with Crossfeed.open(self.settings, self.mappings) as db, db.unit_of_work() as work:
            await work[type(entity)].add(entity)
            if event:
                work.record(AccountRegistered(email=EMAIL, display_name=SECRET), of=entity)
            await work.commit()

    async def cross(self) -> None:
        await Processor(self.engine, self.store, self.mappings).run_once()
        await open_relay(self.settings, self.mappings, self.engine, self.store).run_once()

    async def erase(self, identity: Identity) -> Erased:
        parts = self.engine, self.store, self.mappings, self.settings
        return await erase(*parts, Publisher(*parts), identity)

    async def where(self, text: str) -> set[str]:
        """Return the tables and containers that hold a text anywhere."""
        found = set()
        tables = """
            SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND n.nspname IN ('crossfeed', 'public')
        """
        async with self.engine.connect() as connection:
            for (table,) in map(tuple, (await connection.exec_driver_sql(tables)).all()):
                sql = f"SELECT count(*) FROM {table} t WHERE to_json(t)::text LIKE %(text)s"
                if (await connection.exec_driver_sql(sql, {"text": f"%{text}%"})).scalar_one():
                    found.add(str(table).removeprefix("crossfeed.").rstrip("_0123456789"))
        for name in (*self.mappings.containers, self.store.own.events.name):
            async for document in self.store.container_named(name).query_items("SELECT * FROM c"):
                if text in orjson.dumps(document).decode():
                    found.add(name)
        return found


@pytest.fixture
def place(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Place:
    keyed = settings.model_copy(update={"erase_key": SecretStr("k"), "tombstone_ttl_s": TTL_S})
    return Place(keyed, engine, cosmos, mappings)


def account() -> tuple[Account, Identity]:
    return Account(id="acc-1", email=EMAIL, display_name=SECRET), Identity.of("Account", ["acc-1"], "acc-1")


def signup() -> tuple[PendingSignup, Identity]:
    entity = PendingSignup.model_validate({"id": "s-1", "email": EMAIL, "DisplayName": SECRET})
    return entity, Identity.of("PendingSignup", [EMAIL], "s-1")


async def letter_of(place: Place, identity: Identity) -> None:
    document: dict[str, Any] = {"id": identity.id, "Email": EMAIL}
    async with place.engine.begin() as connection:
        await dead_letters.record(
            connection, DeadLetter(Direction.TO_POSTGRES, "rogue_write", identity, "a test", document)
        )


@pytest.mark.parametrize(
    ("key", "id_"),
    [
        pytest.param("a", "a/b", id="an id that cannot be read by key"),
        pytest.param("a", "", id="no id"),
        pytest.param('[{"a": 1}]', "a", id="an object as a level"),
        pytest.param("[[1]]", "a", id="an array as a level"),
        pytest.param("[1e300]", "a", id="a number that has no one text"),
    ],
)
def test_a_key_that_no_document_can_have_is_a_wrong_argument(mappings: Mappings, key: str, id_: str) -> None:
    with pytest.raises(ConfigurationError):
        _identity(mappings, "Account", key, id_)


@pytest.mark.parametrize("phase", PHASES, ids=[phase.label for phase in PHASES])
async def test_nothing_of_a_person_is_left_but_a_key_without_content(place: Place, phase: Phase) -> None:
    entity, identity = account()
    await place.put(Phase.DUAL_WRITE_COSMOS_READ)
    await place.add(entity, event=True)
    await place.cross()
    for step in range(min(phase, 1), max(phase, 1) + 1):
        await place.put(Phase(step))
    await letter_of(place, identity)
    assert len(await place.where(SECRET)) >= 4
    erased = await place.erase(identity)
    assert (erased.was_there, erased.row, erased.document, erased.key) == (True, "tombstone", "tombstone", "id")
    assert erased.swept["dead_letters"] == 1
    assert erased.swept["events"] + erased.swept["events_in_the_log"] >= 1
    # The event rides in the tombstone until that expires where Cosmos DB is the primary, and the report says so.
    assert await place.where(SECRET) == ({"Accounts"} if erased.events_in_tombstone else set())
    again = await place.erase(identity)
    assert (again.was_there, again.row, again.swept["dead_letters"]) == (False, "tombstone", 0)


async def test_a_partition_key_that_names_somebody_becomes_a_keyed_hash_when_both_stores_have_let_go(
    place: Place,
) -> None:
    entity, identity = signup()
    await place.put(Phase.DUAL_WRITE_POSTGRES_READ)
    await place.add(entity)
    await place.cross()
    erased = await place.erase(identity)
    assert (erased.key, erased.is_complete, erased.tombstone_expires_in_s) == ("kept", False, TTL_S)
    await place.add(entity)  # somebody signs up again meanwhile: it goes on from the tombstone's version
    await place.cross()
    assert (await place.erase(identity)).key == "kept"
    container = place.store.container_named("PendingSignups")
    # An hour later: Cosmos DB deletes its tombstone itself.
    await container.delete_item(identity.id, partition_key=EMAIL)
    async with place.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE crossfeed.tombstone SET at = at - interval '1 hour 1 second'")
    erased = await place.erase(identity)
    assert (erased.key, erased.is_complete, erased.document) == ("hashed", True, "nothing")
    assert await place.where(SECRET) == {"outbox"}  # goes with its partition
    assert erased.left["messages_that_name_the_key"] > 0
    async with place.engine.connect() as connection:
        tombstones = await connection.exec_driver_sql("SELECT partition_key, id FROM crossfeed.tombstone")
        [(key, id_)] = map(tuple, tombstones)
    assert key.startswith('["crossfeed-erased:')
    assert id_ == identity.id
    async with place.engine.connect() as connection:  # no walk over tombstones takes it for a document
        page = await tombstones_after(connection, place.mappings.named("PendingSignup"), None, 10, 0)
    assert page.identities == []
    await place.add(entity)  # signs up once more, and is erased once more: the same hash
    await place.cross()
    assert (await place.erase(identity)).key == "kept"
    await container.delete_item(identity.id, partition_key=EMAIL)
    async with place.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE crossfeed.tombstone SET at = at - interval '1 hour 1 second'")
    assert (await place.erase(identity)).key == "hashed"
    assert (await place.erase(identity)).is_complete, "and again, where nothing is left to hash"


async def test_without_a_key_for_the_hash_nothing_is_begun(place: Place) -> None:
    entity, identity = signup()
    await place.put(Phase.DUAL_WRITE_POSTGRES_READ)
    await place.add(entity)
    place.settings = place.settings.model_copy(update={"erase_key": None})
    with pytest.raises(ConfigurationError, match="CROSSFEED_ERASE_KEY"):
        await place.erase(identity)
    assert "pending_signups" in await place.where(SECRET)
