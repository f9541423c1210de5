"""Events are recorded with the writes of their unit, or not at all, on either store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.domain.account import Account
from core.domain.events import AccountRegistered
from core.domain.pending_signup import PendingSignup
from core.entity import Entity
from core.errors import AlreadyExistsError, ConcurrencyError, DocumentRefusedError, MappingError, NotFoundError
from core.identity import Identity
from tests.contract.stores import Db, save

if TYPE_CHECKING:
    from core.repository import UnitOfWork

A = Identity.of("Account", ["a"], "a")


def said(text: str) -> AccountRegistered:
    return AccountRegistered(email=text, display_name="")


async def have(work: UnitOfWork, id_: str = "a") -> Account:
    found = await work[Account].get_by_id(id_)
    assert found is not None
    return found


async def test_events_are_recorded_in_order_with_the_write_of_their_aggregate(db: Db) -> None:
    account = Account(id="a")
    async with db.unit_of_work() as work:
        await work[Account].add(account)
        work.record(said("1"), of=account)
        work.record(said("2"), of=account)
        await work.commit()
    async with db.unit_of_work() as work:
        account = await have(work)
        account.display_name = "changed"
        work.record(said("3"), of=account)
        await work[Account].update(account)
        await work.commit()
        work.record(said("4"), of=account)
        await work[Account].delete(account)
        await work.commit()
    assert await db.events(A) == ["1", "2", "3", "4"]


async def test_an_event_needs_no_write_of_its_aggregate(db: Db) -> None:
    await save(db, Account(id="a", display_name="kept"))
    async with db.unit_of_work() as work:
        account = await have(work)
        work.record(said("by entity"), of=account)
        await work.commit()
        work.record(said("by identity"), of=A)
        await work.commit()
        account = await have(work)
        account.display_name = "and may be written on"
        await work[Account].update(account)
        work.record(said("with a write"), of=A)
        await work.commit()
    assert await db.events(A) == ["by entity", "by identity", "with a write"]


async def test_an_entity_may_be_written_after_an_event_of_it_was_committed(db: Db) -> None:
    await save(db, Account(id="a"))
    async with db.unit_of_work() as work:
        account = await have(work)
        work.record(said("1"), of=account)
        await work.commit()
        account.display_name = "on"
        await work[Account].update(account)
        await work.commit()
        assert (await have(work)).display_name == "on"


async def test_a_deleted_aggregate_may_have_events_and_comes_back_with_them(db: Db) -> None:
    account = Account(id="a")
    await save(db, account)
    async with db.unit_of_work() as work:
        await work[Account].delete(await have(work))
        await work.commit()
        work.record(said("gone"), of=A)
        await work.commit()
        assert not await work[Account].exists("a")
        await work[Account].add(Account(id="a"))
        work.record(said("back"), of=A)
        await work.commit()
        assert await work[Account].exists("a")
    assert await db.events(A) == ["gone", "back"]


async def test_what_is_rolled_back_was_not_said(db: Db) -> None:
    await save(db, Account(id="a"))
    async with db.unit_of_work() as work:
        work.record(said("1"), of=A)
        await work.rollback()
        await work.commit()
    async with db.unit_of_work() as work:
        work.record(said("2"), of=A)
    assert await db.events(A) == []


async def test_a_conflict_takes_the_events_with_it(db: Db) -> None:
    await save(db, Account(id="a"))
    async with db.unit_of_work() as slow, db.unit_of_work() as fast:
        stale, fresh = await have(slow), await have(fast)
        await fast[Account].update(fresh)
        fast.record(said("fast"), of=fresh)
        await fast.commit()
        slow.record(said("slow"), of=stale)
        with pytest.raises(ConcurrencyError):  # noqa: PT012 - at once on one store, at the commit on the other
            await slow[Account].update(stale)
            await slow.commit()
        await slow.rollback()
    async with db.unit_of_work() as work:
        with pytest.raises(AlreadyExistsError):  # noqa: PT012 - as above
            work.record(said("twice"), of=A)
            await work[Account].add(Account(id="a"))
            await work.commit()
    assert await db.events(A) == ["fast"]


async def test_units_that_only_record_do_not_stand_in_each_others_way(db: Db) -> None:
    await save(db, Account(id="a"))

    async def one(text: str) -> None:
        async with db.unit_of_work() as work:
            work.record(said(text), of=A)
            await work.commit()

    await asyncio.gather(*map(one, "123"))
    assert sorted(await db.events(A)) == ["1", "2", "3"]


async def test_an_aggregate_that_was_never_there_has_no_events(db: Db) -> None:
    async with db.unit_of_work() as work:
        work.record(said("1"), of=A)
        with pytest.raises(NotFoundError):
            await work.commit()
    assert await db.events(A) == []


async def test_events_of_several_aggregates_of_one_partition_are_one_transaction(db: Db) -> None:
    one, two = (PendingSignup(id=id_, email="x@y") for id_ in "12")
    await save(db, one, two)
    async with db.unit_of_work() as work:
        for n, signup in enumerate((two, one, two)):
            work.record(said(str(n)), of=signup)
        await work.commit()
    assert await db.events(Identity.of("PendingSignup", ["x@y"], "1")) == ["1"]
    assert await db.events(Identity.of("PendingSignup", ["x@y"], "2")) == ["0", "2"]


async def test_what_cannot_be_recorded_is_refused_at_once(db: Db) -> None:
    class Stranger(Entity):
        pass

    async with db.unit_of_work() as work:
        with pytest.raises(MappingError):
            work.record(said("1"), of=Stranger(id="a"))
        with pytest.raises(MappingError):
            work.record(said("1"), of=Identity.of("Stranger", ["a"], "a"))
        with pytest.raises(DocumentRefusedError):
            work.record(said("\0"), of=A)
