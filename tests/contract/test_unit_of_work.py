"""What every unit of work does: all or nothing, and it reads its own writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.domain.account import Account
from core.domain.pending_signup import PendingSignup, PendingSignups
from core.domain.shapes import StoredEntity
from core.entity import loaded
from core.errors import AlreadyExistsError, ConcurrencyError, MappingError
from core.query import Equals, Order, Query
from tests.contract.stores import commit_all, in_unit, save

if TYPE_CHECKING:
    from core.repository import UnitOfWork
    from tests.contract.stores import Db

BY_NAME = Query((Equals("email", "a@x"),), Order("display_name"))


async def _names(work: UnitOfWork) -> list[str]:
    names = [signup.display_name for signup in await work[PendingSignup].list(BY_NAME)]
    assert [signup.display_name async for signup in work[PendingSignup].stream(BY_NAME)] == names
    assert await work[PendingSignup].count(BY_NAME) == len(names)
    return names


async def test_a_unit_reads_its_own_writes_before_they_are_committed(db: Db) -> None:
    await save(db, *(PendingSignup(id=name, email="a@x", display_name=name) for name in ("b", "d", "f")))
    async with db.unit_of_work() as work:
        signups = work[PendingSignup]
        await signups.add(PendingSignup(id="new", email="a@x", display_name="c"))
        assert await signups.exists("new")
        assert await _names(work) == ["b", "c", "d", "f"]
        updated = await signups.get_by_id("b", partition_key="a@x")
        assert updated is not None
        updated.display_name = "e"
        await signups.update(updated)
        again = await signups.get_by_id("b", partition_key="a@x")
        assert again is not None
        assert again.display_name == "e"
        deleted = await signups.get_by_id("d")
        assert deleted is not None
        await signups.delete(deleted)
        assert await signups.get_by_id("d") is None
        assert await signups.get_by_id("d", partition_key="a@x") is None
        assert not await signups.exists("d")
        assert await _names(work) == ["c", "e", "f"]
        assert [signup.id for signup in await signups.list(Query(order_by=BY_NAME.order_by, limit=1))] == ["new"]
        async with db.unit_of_work() as another:
            assert await _names(another) == ["b", "d", "f"]
        await work.commit()
    async with db.unit_of_work() as work:
        assert await _names(work) == ["c", "e", "f"]


async def test_leaving_without_a_commit_writes_nothing(db: Db) -> None:
    kept = PendingSignup(id="kept", email="a@x", display_name="before")
    await save(db, kept)
    async with db.unit_of_work() as work:
        await work[PendingSignup].add(PendingSignup(id="new", email="a@x"))
        kept.display_name = "after"
        await work[PendingSignup].update(kept)
    async with db.unit_of_work() as work:
        assert await _names(work) == ["before"]


async def test_an_error_inside_the_unit_writes_nothing_and_comes_through(db: Db) -> None:
    async def fail(work: UnitOfWork) -> None:
        await work[PendingSignup].add(PendingSignup(id="new", email="a@x"))
        raise LookupError

    with pytest.raises(LookupError):
        await in_unit(db, fail)
    async with db.unit_of_work() as work:
        assert await _names(work) == []


async def test_after_a_rollback_the_unit_starts_anew(db: Db) -> None:
    kept = PendingSignup(id="kept", email="a@x", display_name="before")
    await save(db, kept)
    before = loaded(kept)
    async with db.unit_of_work() as work:
        await work[PendingSignup].add(PendingSignup(id="forgotten", email="a@x", display_name="forgotten"))
        kept.display_name = "after"
        await work[PendingSignup].update(kept)
        await work.rollback()
        assert loaded(kept) == before
        assert await _names(work) == ["before"]
        await work[PendingSignup].update(kept)  # it stands as read, not as written and rolled back
        await work[PendingSignup].add(PendingSignup(id="new", email="a@x", display_name="new"))
        await work.commit()
    async with db.unit_of_work() as work:
        assert await _names(work) == ["after", "new"]


async def test_a_unit_may_go_on_after_its_commit_with_the_same_entities(db: Db) -> None:
    signup = PendingSignup(id="s", email="a@x", display_name="1")
    async with db.unit_of_work() as work:
        await work[PendingSignup].add(signup)
        await work.commit()
        signup.display_name = "2"
        await work[PendingSignup].update(signup)
        await work.commit()
        signup.display_name = "3"
        await work[PendingSignup].update(signup)
        signup.display_name = "4"
        await work[PendingSignup].update(signup)
        await work.commit()
        await work.commit()  # nothing to write is no error
        signup.display_name = "5"
        await work[PendingSignup].update(signup)
    async with db.unit_of_work() as work:
        assert await _names(work) == ["4"]
        found = await work[PendingSignup].get_by_id("s")
        assert found is not None
        await work[PendingSignup].delete(found)
        await work.commit()


async def test_writes_of_one_partition_are_committed_all_or_none(db: Db) -> None:
    stale = PendingSignup(id="b", email="a@x", display_name="b")
    await save(db, PendingSignup(id="a", email="a@x", display_name="a"), stale)
    async with db.unit_of_work() as work:
        current = await work[PendingSignup].get_by_id("b")
        assert current is not None
        current.display_name = "changed"
        await work[PendingSignup].update(current)
        await work.commit()
    fresh = PendingSignup(id="c", email="a@x", display_name="c")
    async with db.unit_of_work() as work:
        innocent = await work[PendingSignup].get_by_id("a")
        assert innocent is not None
        innocent.display_name = "never"
    with pytest.raises(ConcurrencyError):
        await commit_all(db, ("update", innocent), ("add", fresh), ("update", stale))
    assert loaded(fresh) is None
    async with db.unit_of_work() as work:
        assert await _names(work) == ["a", "changed"]


async def test_delete_and_add_of_one_identity_in_one_unit_is_a_new_state_of_it(db: Db) -> None:
    old = PendingSignup(id="s", email="a@x", display_name="old")
    await save(db, old)
    before = loaded(old)
    new = PendingSignup(id="s", email="a@x", display_name="new")
    async with db.unit_of_work() as work:
        await work[PendingSignup].delete(old)
        await work[PendingSignup].add(new)
        assert await _names(work) == ["new"]
        await work.commit()
    after = loaded(new)
    assert before is not None
    assert after is not None
    assert after.stamp > before.stamp
    async with db.unit_of_work() as work:
        assert await _names(work) == ["new"]


async def test_what_is_added_and_deleted_in_one_unit_was_never_there(db: Db) -> None:
    async with db.unit_of_work() as work:
        signup = PendingSignup(id="s", email="a@x")
        await work[PendingSignup].add(signup)
        await work[PendingSignup].delete(signup)
        assert await _names(work) == []
        await work.commit()
    async with db.unit_of_work() as work:
        assert await _names(work) == []
    await save(db, PendingSignup(id="s", email="a@x"))


async def test_a_deleted_entity_is_not_updated_in_the_same_unit(db: Db) -> None:
    signup = PendingSignup(id="s", email="a@x")
    await save(db, signup)
    with pytest.raises(ConcurrencyError):
        await commit_all(db, ("delete", signup), ("update", signup))


async def test_of_two_units_that_add_the_same_identity_exactly_one_does(db: Db) -> None:
    async def add(name: str) -> None:
        await save(db, PendingSignup(id="s", email="a@x", display_name=name))

    outcomes = await asyncio.gather(*(add(f"{number}") for number in range(5)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert [type(outcome) for outcome in refused] == [AlreadyExistsError] * 4
    async with db.unit_of_work() as work:
        assert await _names(work) == [str(outcomes.index(None))]


async def test_a_domains_own_repository_shares_the_unit(db: Db) -> None:
    async with db.unit_of_work() as work:
        signups = work.of(PendingSignups)
        await signups.add(PendingSignup(id="s", email="a@x", code="1"))
        assert await work[PendingSignup].exists("s")
        assert await signups.by_email_and_code("a@x", "1") is not None
        await work.commit()


async def test_a_class_without_a_mapping_has_no_repository(db: Db) -> None:
    class Unmapped(StoredEntity):
        pass

    async with db.unit_of_work() as work:
        with pytest.raises(MappingError, match="Unmapped"):
            work[Unmapped]
        assert await work[Account].list() == []


async def test_what_exists_cannot_be_added_even_by_a_unit_that_deletes_it_again(db: Db) -> None:
    await save(db, Account(id="a", display_name="first"))
    second = Account(id="a", display_name="second")
    async with db.unit_of_work() as work:
        with pytest.raises(AlreadyExistsError):  # noqa: PT012 - Postgres refuses the add, Cosmos DB the commit
            await work[Account].add(second)
            await work[Account].delete(second)
            await work.commit()
    async with db.unit_of_work() as work:
        found = await work[Account].get_by_id("a")
        assert found is not None
        assert found.display_name == "first"
