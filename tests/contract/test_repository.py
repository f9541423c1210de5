"""What every repository does: add, get, update, delete, exists, list, count and stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.domain.account import Account
from core.domain.game_session import GameSession
from core.domain.pending_signup import PendingSignup
from core.domain.user_profile import UserProfile
from core.entity import loaded
from core.errors import AlreadyExistsError, ConcurrencyError
from core.query import Equals, Order, Query
from tests.contract.stores import commit_all, save

if TYPE_CHECKING:
    from tests.contract.stores import Db


async def test_what_was_added_is_found_by_its_id_in_another_unit(db: Db) -> None:
    session = GameSession(id="s1", account_id="a1", scenario_id="x")
    await save(db, session)
    async with db.unit_of_work() as work:
        sessions = work[GameSession]
        assert await sessions.get_by_id("s1", partition_key="a1") == session
        assert await sessions.get_by_id("s1", partition_key=["a1"]) == session
        assert await sessions.get_by_id("s1") == session
        assert await sessions.exists("s1", partition_key="a1")
        assert await sessions.exists("s1")
        assert await sessions.list() == [session]
        assert await sessions.count() == 1


async def test_what_is_not_there_is_none_and_no_error(db: Db) -> None:
    await save(db, GameSession(id="s1", account_id="5"))
    async with db.unit_of_work() as work:
        assert await work[Account].get_by_id("s1") is None
        assert await work[Account].get_by_id("s1", partition_key="s1") is None
        assert not await work[Account].exists("s1")
        assert await work[Account].list() == []
        assert await work[Account].count() == 0
        assert [account async for account in work[Account].stream()] == []
        assert await work[GameSession].get_by_id("s1", partition_key="another") is None
        assert not await work[GameSession].exists("s1", partition_key="another")
        # a key of another kind is another key, and null is one too
        assert await work[GameSession].get_by_id("s1", partition_key=5) is None
        assert await work[GameSession].get_by_id("s1", partition_key=None) is None
        assert await work[GameSession].get_by_id("S1") is None


@pytest.mark.parametrize("id_", ["", "a/b", "a\\b", "a?b", "a#b", "a\0b", "x" * 1024, "\ud800", "a'b", "%", "../a"])
async def test_an_id_that_cannot_exist_is_not_found_either(db: Db, id_: str) -> None:
    async with db.unit_of_work() as work:
        assert await work[Account].get_by_id(id_, partition_key=id_) is None
        assert await work[Account].get_by_id(id_) is None
        assert not await work[GameSession].exists(id_, partition_key="a")


async def test_an_update_is_seen_and_a_delete_leaves_nothing(db: Db) -> None:
    await save(db, Account(id="a1", display_name="Ann"))
    async with db.unit_of_work() as work:
        account = await work[Account].get_by_id("a1")
        assert account is not None
        account.display_name = "Lee, Ann"
        account.subscription.tier = "Basic"
        await work[Account].update(account)
        await work.commit()
    async with db.unit_of_work() as work:
        account = await work[Account].get_by_id("a1", partition_key="a1")
        assert account is not None
        assert (account.display_name, account.subscription.tier) == ("Lee, Ann", "Basic")
        await work[Account].delete(account)
        await work.commit()
    async with db.unit_of_work() as work:
        accounts = work[Account]
        assert await accounts.get_by_id("a1", partition_key="a1") is None
        assert await accounts.get_by_id("a1") is None
        assert not await accounts.exists("a1")
        assert await accounts.list() == []
        assert await accounts.count() == 0
        assert [account async for account in accounts.stream()] == []


async def test_without_an_order_entities_come_in_the_order_of_their_ids_by_code_point(db: Db) -> None:
    ids = ["b", "B", "a", "ä", "a-1", "a1", "é", "z", "Z", "竜", "🐉", "￼", "10", "9", "_", "~"]
    for id_ in ids:
        await save(db, UserProfile(id=id_))
    async with db.unit_of_work() as work:
        profiles = work[UserProfile]
        assert [profile.id for profile in await profiles.list()] == sorted(ids)
        assert [profile.id async for profile in profiles.stream()] == sorted(ids)
        assert [profile.id for profile in await profiles.list(Query(limit=3))] == sorted(ids)[:3]
        assert [profile.id async for profile in profiles.stream(Query(limit=3))] == sorted(ids)[:3]


@pytest.mark.parametrize("descending", [False, True])
async def test_text_sorts_by_code_point_and_ties_are_in_the_order_of_ids(db: Db, descending: bool) -> None:
    names = [
        "Zoe",
        "zoe",
        "Ärger",
        "Zoe",
        "äpfel",
        "Zoë",
        "Zoe\u0308",
        "",
        " ",
        "竜",
        "🐉",
        "Zoe",
        "Lee, Ann",
        "￼",
        "zoe",
    ]
    for number, name in enumerate(names):
        await save(db, UserProfile(id=f"p{number:02d}", name=name))
    numbered = [(name, f"p{number:02d}") for number, name in enumerate(names)]
    expected = sorted(sorted(numbered), key=lambda pair: pair[0], reverse=descending)
    query = Query(order_by=Order("name", descending))
    async with db.unit_of_work() as work:
        profiles = work[UserProfile]
        assert [(profile.name, profile.id) for profile in await profiles.list(query)] == expected
        assert [(profile.name, profile.id) async for profile in profiles.stream(query)] == expected
        first = await profiles.list(Query(order_by=query.order_by, limit=4))
        assert [(profile.name, profile.id) for profile in first] == expected[:4]


async def test_a_count_and_a_limit_mean_entities(db: Db) -> None:
    await save(db, *(PendingSignup(id=f"s{n}", email="a@x", is_used=n % 2 == 0) for n in range(5)))
    used = (Equals("is_used", value=True),)
    async with db.unit_of_work() as work:
        signups = work[PendingSignup]
        assert await signups.count(Query(used)) == 3
        assert await signups.count(Query(used, limit=2)) == 2
        assert await signups.count(Query(limit=0)) == 0
        assert await signups.list(Query(limit=0)) == []
        assert [signup async for signup in signups.stream(Query(limit=0))] == []
        assert len(await signups.list(Query(used, limit=9))) == 3


async def test_a_stream_gives_what_a_list_gives_and_may_be_left_early(db: Db) -> None:
    ids = [f"s{number:04d}" for number in range(250)]
    for start in range(0, 250, 100):
        await save(db, *(GameSession(id=id_, account_id="a1", profile_id="p") for id_ in ids[start : start + 100]))
    query = Query((Equals("profile_id", "p"),), Order("start_time", descending=True))
    async with db.unit_of_work() as work:
        sessions = work[GameSession]
        assert [session.id async for session in sessions.stream(query)] == ids
        assert [session.id for session in await sessions.list(query)] == ids
        seen = []
        async for session in sessions.stream(query):
            seen.append(session.id)
            if len(seen) == 3:
                break
        assert seen == ids[:3]
        assert await sessions.count(query) == 250


async def test_equal_ids_in_two_partitions_are_two_entities(db: Db) -> None:
    here, there = GameSession(id="s", account_id="here"), GameSession(id="s", account_id="there", scenario_id="x")
    await save(db, here)
    await save(db, there)
    async with db.unit_of_work() as work:
        sessions = work[GameSession]
        assert await sessions.get_by_id("s", partition_key="here") == here
        assert await sessions.get_by_id("s", partition_key="there") == there
        assert await sessions.get_by_id("s") == here
        assert await sessions.count() == 2
        await sessions.delete(here)
        await work.commit()
    async with db.unit_of_work() as work:
        assert await work[GameSession].get_by_id("s", partition_key="here") is None
        assert await work[GameSession].get_by_id("s") == there
        assert await work[GameSession].list() == [there]


async def test_an_identity_that_is_taken_cannot_be_added(db: Db) -> None:
    await save(db, Account(id="a1", display_name="first"))
    with pytest.raises(AlreadyExistsError):
        await save(db, Account(id="a1", display_name="second"))
    async with db.unit_of_work() as work:
        account = await work[Account].get_by_id("a1")
        assert account is not None
        assert account.display_name == "first"
    with pytest.raises(AlreadyExistsError):
        await save(db, Account(id="a2"), Account(id="a2"))
    async with db.unit_of_work() as work:
        assert not await work[Account].exists("a2")


async def test_a_deleted_identity_may_be_added_again_and_its_version_goes_on(db: Db) -> None:
    for expected in (1, 3, 5):
        account = Account(id="a1", display_name=f"life {expected}")
        await save(db, account)
        state = loaded(account)
        assert state is not None
        assert state.stamp.version == expected
        async with db.unit_of_work() as work:
            found = await work[Account].get_by_id("a1")
            assert found == account
            found_state = loaded(account)
            assert found_state is not None
            assert found_state.stamp == state.stamp
            await work[Account].delete(account)
            await work.commit()


async def test_the_first_write_of_a_type_is_read_back_after_many_of_another(db: Db) -> None:
    for number in range(5):
        await save(db, Account(id=f"a{number}"))
    await save(db, UserProfile(id="p"))
    async with db.unit_of_work() as work:
        assert await work[UserProfile].exists("p", partition_key="p")
        assert await work[UserProfile].exists("p")


@pytest.mark.parametrize("operation", ["update", "delete"])
async def test_an_entity_that_was_never_read_is_neither_updated_nor_deleted(db: Db, operation: str) -> None:
    await save(db, Account(id="a1", display_name="kept"))
    with pytest.raises(ConcurrencyError):
        await commit_all(db, (operation, Account(id="a1")))
    async with db.unit_of_work() as work:
        assert [account.display_name for account in await work[Account].list()] == ["kept"]


async def test_a_written_entity_counts_as_read(db: Db) -> None:
    account = Account(id="a1")
    await save(db, account)
    for name in ("one", "two", "three"):
        async with db.unit_of_work() as work:
            account.display_name = name
            await work[Account].update(account)
            await work.commit()
    state = loaded(account)
    assert state is not None
    assert state.stamp.version == 4
    async with db.unit_of_work() as work:
        assert await work[Account].get_by_id("a1") == account
        await work[Account].delete(account)
        await work.commit()
    assert loaded(account) is None
    await save(db, account)
