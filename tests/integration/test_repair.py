"""Repair makes the follower what the primary is, and nothing newer is lost by it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.content import content_of
from core.domain.mappings import ACCOUNTS
from core.envelope import Origin, is_deleted, stamped
from core.errors import ConflictError
from core.migration.parity import SETTLED
from core.migration.repair import REMAINS, TOO_MANY, UNNAMED, UNREADABLE
from core.migration.validation import validate
from core.phases import Phase
from core.postgres.phases import open_phase
from core.stamp import Stamp
from tests.integration.library_steps import BOOKS, LIBRARY, Book, Film, install, opened
from tests.integration.mirror_steps import same
from tests.integration.reconcile_steps import hard_delete
from tests.integration.relay_steps import letters
from tests.integration.validation_steps import BEHIND, Compared, found

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
def both(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings) -> Compared:
    return Compared(engine, cosmos, mappings, ACCOUNTS, settings=settings)


async def test_rows_become_what_the_documents_are(both: Compared) -> None:
    await both.in_cosmos("same", "gone", "old", "edited", "soft")
    await hard_delete(both, "gone")
    await both.replaced("old", DisplayName="Newer")
    await both.replaced("new")
    await both.delete("soft")
    await both.sql(BEHIND, "UPDATE accounts SET role = 'Admin' WHERE id = 'edited'")
    parity = await both.validate(deep=True)
    assert len(parity.differences) == 5
    tried = await both.repair(parity.differences, dry_run=True)
    assert (tried.written, tried.removed, tried.kept) == (3, 2, {})
    assert found(await both.validate(deep=True)) == found(parity), "a dry run changes nothing"
    done = await both.repair(parity.differences)
    assert (done.written, done.removed, done.kept) == (3, 2, {})
    assert (await both.validate(deep=True)).is_equal
    for id_ in ("same", "old", "new", "edited"):
        assert same(await both.content(id_), await both.current(id_))
    again = await both.repair(parity.differences)
    assert (again.written, again.removed, again.kept) == (0, 0, {SETTLED: 5})


async def test_documents_become_what_the_rows_are(both: Compared) -> None:
    await both.in_cosmos("rogue")
    await both.in_postgres("same", "gone", "old", "edited", "deleted", "lost")
    old = await both.current("old")
    deleted = await both.current("deleted")
    assert old is not None
    assert deleted is not None
    await both.sql("UPDATE accounts SET role = 'Admin' WHERE id = 'old'", "DELETE FROM accounts WHERE id = 'deleted'")
    await both.publish()
    await hard_delete(both, "gone")
    await both.foreign(stamped(content_of(old), Stamp(3, 1), Origin.POSTGRES))
    await both.foreign(stamped(content_of(deleted), Stamp(3, 1), Origin.POSTGRES))
    await both.replaced("rogue", DisplayName="Written by the old application")
    await both.replaced("stranger")
    await both.sql(BEHIND, "UPDATE accounts SET role = 'Admin' WHERE id = 'edited'")
    await both.sql(BEHIND, "DELETE FROM accounts WHERE id = 'lost'")
    parity = await both.validate(deep=True)
    assert found(parity) == {
        "gone": "missing",
        "old": "stale",
        "deleted": "extra",
        "rogue": "stale",
        "stranger": "extra",
        "edited": "different",
        "lost": "extra",
    }
    done = await both.repair(parity.differences)
    assert (done.written, done.removed, done.kept) == (4, 3, {})
    assert (await both.validate(deep=True)).is_equal
    edited = await both.current("edited")
    assert edited is not None
    assert edited["Role"] == "Admin"
    for id_ in ("deleted", "stranger", "lost"):
        document = await both.current(id_)
        assert document is not None
        assert is_deleted(document)
    assert {(kind, id_) for _, kind, id_, *_ in await letters(both.engine)} == {
        ("rogue_write", "rogue"),
        ("rogue_write", "stranger"),
    }, "what nobody else holds is kept as a letter"
    await both.publish()
    assert (await both.validate(deep=True)).is_equal, "what was logged besides is harmless"


async def test_a_row_that_was_written_since_it_was_found_is_not_touched(both: Compared) -> None:
    await both.in_cosmos("a", "back")
    await hard_delete(both, "back")
    await both.replaced("a", DisplayName="Second")
    parity = await both.validate()
    assert found(parity) == {"a": "stale", "back": "extra"}
    await both.replaced("a", DisplayName="Third")
    await both.foreign({"id": "back", "Email": "b@example.org", "DisplayName": "Created again"})
    await both.apply(both.history[-1:])
    done = await both.repair(parity.differences)
    assert (done.written, done.removed, done.kept) == (1, 0, {SETTLED: 1})
    assert (await both.validate(deep=True)).is_equal
    content = await both.content("a")
    assert content is not None
    assert content["DisplayName"] == "Third"


async def test_a_row_whose_document_is_created_again_within_the_lag_window_is_kept(both: Compared) -> None:
    await both.in_cosmos("gone", "back")
    for id_ in ("gone", "back"):
        await hard_delete(both, id_)
    parity = await both.validate()

    async def create() -> None:
        await asyncio.sleep(0.5)
        await both.replaced("back", DisplayName="Created again")

    done, _ = await asyncio.gather(both.repair(parity.differences, settle_s=1.5), create())
    assert (done.removed, done.kept) == (1, {REMAINS: 1})
    assert await both.content("back") is not None
    assert await both.content("gone") is None


async def test_a_document_that_became_one_of_another_type_is_brought_over_whole(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with opened(settings) as store:
        await install(engine)
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
        both = Compared(engine, store, LIBRARY, LIBRARY.of(Book), settings=settings)
        for id_ in ("a", "b"):
            await both.foreign({"id": id_, "Shelf": "s", "Discriminator": "Book", "Title": "one"})
        await store.container(BOOKS).create_item({"id": "stranger", "Shelf": "s", "Discriminator": "Poster"})
        await both.apply(both.history)
        assert (await both.validate()).is_equal
        await both.foreign({"id": "a", "Shelf": "s", "Discriminator": "Film", "Title": "two", "Minutes": 90})
        parity = await validate(engine, store, LIBRARY, both.quick, settle_s=0)
        kinds = {one.identity.entity: one.kind.value for one in parity.differences}
        assert kinds == {LIBRARY.of(Book).name: "extra", LIBRARY.of(Film).name: "missing"}
        done = await both.repair(parity.differences)
        assert (done.written, done.removed, done.kept) == (1, 1, {})
        assert (await validate(engine, store, LIBRARY, both.quick, deep=True, settle_s=0)).is_equal


async def test_an_emptied_container_empties_no_table(both: Compared) -> None:
    ids = [f"a{number}" for number in range(12)]
    await both.in_cosmos(*ids)
    for id_ in ids:
        await hard_delete(both, id_)
    parity = await both.validate()
    done = await both.repair(parity.differences)
    assert (done.removed, done.kept) == (0, {TOO_MANY: 12})
    assert await both.count("accounts") == 12
    done = await both.repair(parity.differences, reconcile_max_removed_share=1.0)
    assert (done.removed, done.kept) == (12, {})


async def test_nor_does_it_piece_by_piece(both: Compared) -> None:
    ids = [f"a{number}" for number in range(12)]
    await both.in_cosmos(*ids)
    for id_ in ids:
        await hard_delete(both, id_)
    parity = await both.validate(limit=5)
    unnamed = {name: one.total - len(one.differences) for name, one in parity.entities.items()}
    done = await both.repair(parity.differences, unnamed=unnamed)
    assert (done.removed, done.kept) == (0, {TOO_MANY: 5, UNNAMED: 7})
    assert await both.count("accounts") == 12


async def test_a_document_newer_than_the_tombstone_of_its_lost_row_is_buried(both: Compared) -> None:
    await both.in_postgres("a")
    await both.sql("DELETE FROM accounts WHERE id = 'a'")
    await both.publish()
    await both.sql("INSERT INTO accounts (id, email) VALUES ('a', 'a@example.org')")
    await both.publish()
    await both.sql(BEHIND, "DELETE FROM accounts WHERE id = 'a'")
    parity = await both.validate()
    assert found(parity) == {"a": "extra"}
    done = await both.repair(parity.differences)
    assert (done.removed, done.kept) == (1, {})
    assert (await both.validate()).is_equal


async def test_what_cannot_be_repaired_is_kept_by_its_reason(both: Compared) -> None:
    await both.in_cosmos("a")
    await both.store.container(ACCOUNTS).upsert_item({"id": "bad", "Email": {"no": "text"}})
    await both.store.container(ACCOUNTS).upsert_item({"id": "nul\0", "Email": "x"})
    parity = await both.validate()
    assert found(parity) == {"bad": "missing", "nul\0": "missing"}
    done = await both.repair(parity.differences)
    assert (done.written, done.removed, done.kept) == (0, 0, {UNREADABLE: 1, REMAINS: 1})
    assert (await both.validate()).unaccounted == 1, "what Postgres refused is a dead letter now"


@pytest.mark.parametrize("phase", [Phase.COSMOS_ONLY, Phase.POSTGRES_ONLY])
async def test_nothing_is_repaired_where_neither_store_follows_the_other(both: Compared, phase: Phase) -> None:
    if phase is Phase.POSTGRES_ONLY:
        await open_phase(both.engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
        await open_phase(both.engine, phase, who="test", why="test")
    with pytest.raises(ConflictError, match="neither store follows the other"):
        await both.repair([], dry_run=True)
