"""Every look-up of the example domain, in old spellings and new ones."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from core.domain.account import Account, Accounts
from core.domain.game_session import GameSession, GameSessions, SessionStatus
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS, PENDING_SIGNUPS, USER_PROFILES
from core.domain.pending_signup import PendingSignup, PendingSignups
from core.domain.user_profile import UserProfile, UserProfiles
from core.instant import Instant
from core.query import Before, Equals, NotBefore, OneOf, Order, Query
from tests.contract.stores import save

if TYPE_CHECKING:
    from tests.contract.stores import Db

NOW = Instant.parse("2026-01-31T08:00:00Z")


def _at(minutes: int) -> Instant:
    return Instant.at(NOW + timedelta(minutes=minutes))


# -- accounts


@pytest.mark.parametrize("asked", ["Ann.Lee@Example.com", "ann.lee@example.com", "ANN.LEE@EXAMPLE.COM"])
async def test_an_account_is_found_by_its_email_whatever_the_case(db: Db, asked: str) -> None:
    await save(db, Account(id="a1", email="Ann.Lee@Example.com"))
    await save(db, Account(id="a2", email="ann.lee@example.com.org"))
    async with db.unit_of_work() as work:
        found = await work.of(Accounts).get_by_email(asked)
        assert found is not None
        assert found.id == "a1"
        assert await work.of(Accounts).exists_by_email(asked)


async def test_of_accounts_whose_emails_differ_by_case_only_the_lowest_id_is_found(db: Db) -> None:
    for id_, email in (("b", "ANN@x.org"), ("a", "Ann@X.org"), ("c", "ann@x.org")):
        await save(db, Account(id=id_, email=email))
    async with db.unit_of_work() as work:
        found = await work.of(Accounts).get_by_email("ann@x.org")
        assert found is not None
        assert found.id == "a"


async def test_an_email_is_no_pattern_and_letters_beyond_ascii_have_a_case_too(db: Db) -> None:
    await save(db, Account(id="a1", email="JÜRGEN_Ö%@x.org"))
    async with db.unit_of_work() as work:
        accounts = work.of(Accounts)
        assert await accounts.exists_by_email("jürgen_ö%@x.org")
        for other in ("jurgen_o%@x.org", "jürgen%ö_@x.org", "%", "_", "", "jürgen_ö%@x.org ", "' OR true --"):
            assert not await accounts.exists_by_email(other)
            assert await accounts.get_by_email(other) is None


async def test_the_old_email_finds_nothing_after_a_change_nor_any_after_a_delete(db: Db) -> None:
    account = Account(id="a1", email="old@x.org")
    await save(db, account)
    account.email = "new@x.org"
    async with db.unit_of_work() as work:
        await work[Account].update(account)
        assert not await work.of(Accounts).exists_by_email("OLD@x.org")
        assert await work.of(Accounts).exists_by_email("NEW@x.org")
        await work.commit()
    async with db.unit_of_work() as work:
        accounts = work.of(Accounts)
        assert not await accounts.exists_by_email("old@x.org")
        assert await accounts.exists_by_email("new@x.org")
        await accounts.delete(account)
        await work.commit()
    async with db.unit_of_work() as work:
        assert not await work.of(Accounts).exists_by_email("new@x.org")
        assert await work.of(Accounts).get_by_email("new@x.org") is None


async def test_an_account_is_found_by_its_auth0_user(db: Db) -> None:
    await save(db, Account(id="a1", auth0_user_id="auth0|6f0e2b7a9c"))
    async with db.unit_of_work() as work:
        found = await work.of(Accounts).get_by_auth0_user_id("auth0|6f0e2b7a9c")
        assert found is not None
        assert found.id == "a1"
        assert await work.of(Accounts).get_by_auth0_user_id("AUTH0|6F0E2B7A9C") is None


async def test_a_property_that_was_left_out_is_found_by_its_default(db: Db) -> None:
    await db.seed(ACCOUNTS, {"id": "a"}, {"id": "b", "Role": "Guest"}, {"id": "c", "Role": "Admin"})
    async with db.unit_of_work() as work:
        guests = Query((Equals("role", "Guest"),))
        assert [account.id for account in await work[Account].list(guests)] == ["a", "b"]
        assert await work[Account].count(guests) == 2
        unnamed = Query((Equals("email", "", ignore_case=True),))
        assert await work[Account].count(unnamed) == 3


# -- profiles


async def test_the_profiles_of_an_account_come_by_name(db: Db) -> None:
    for id_, name, account in (
        ("1", "Zoe", "a"),
        ("2", "Ann", "a"),
        ("3", "ann", "a"),
        ("4", "Bob", "b"),
        ("5", "Ann", "a"),
    ):
        await save(db, UserProfile(id=id_, name=name, account_id=account))
    await save(db, UserProfile(id="6", name="Nobody's"))
    async with db.unit_of_work() as work:
        profiles = work.of(UserProfiles)
        assert [profile.id for profile in await profiles.by_account("a")] == ["2", "5", "1", "3"]
        assert await profiles.by_account("A") == []
        assert [profile.id for profile in await profiles.list(Query((Equals("account_id", None),)))] == ["6"]


async def test_guests_are_told_from_the_others(db: Db) -> None:
    await db.seed(
        USER_PROFILES,
        {"id": "1", "Name": "c", "IsGuest": True},
        {"id": "2", "Name": "b", "IsGuest": False},
        {"id": "3", "Name": "a"},
        {"id": "4", "Name": "a", "IsGuest": True},
    )
    async with db.unit_of_work() as work:
        profiles = work.of(UserProfiles)
        assert [profile.id for profile in await profiles.guests()] == ["4", "1"]
        assert [profile.id for profile in await profiles.non_guests()] == ["3", "2"]


# -- sign-ups


async def test_a_signup_is_found_by_email_and_code_the_newest_first(db: Db) -> None:
    await save(
        db,
        PendingSignup(id="1", email="a@x", code="012345", created_at=_at(0)),
        PendingSignup(id="2", email="a@x", code="012345", created_at=_at(1)),
        PendingSignup(id="3", email="a@x", code="999999", created_at=_at(2)),
    )
    await save(db, PendingSignup(id="4", email="A@x", code="012345", created_at=_at(3)))
    async with db.unit_of_work() as work:
        signups = work.of(PendingSignups)
        found = await signups.by_email_and_code("a@x", "012345")
        assert found is not None
        assert found.id == "2"
        assert await signups.by_email_and_code("a@x", "12345") is None
        assert await signups.by_email_and_code("b@x", "012345") is None


async def test_active_signups_are_unused_in_time_and_not_exhausted(db: Db) -> None:
    await save(
        db,
        PendingSignup(id="1", email="a@x", created_at=_at(-3), expires_at=_at(12)),
        PendingSignup(id="2", email="a@x", created_at=_at(-2), expires_at=NOW),
        PendingSignup(id="used", email="a@x", created_at=_at(-1), expires_at=_at(14), is_used=True),
        PendingSignup(id="over", email="a@x", created_at=_at(-15), expires_at=_at(-1)),
        PendingSignup(id="tried", email="a@x", created_at=_at(-1), expires_at=_at(14), failed_attempts=5),
    )
    await save(db, PendingSignup(id="other", email="A@x", created_at=_at(-1), expires_at=_at(14)))
    async with db.unit_of_work() as work:
        active = await work.of(PendingSignups).active_by_email("a@x", NOW)
        assert [signup.id for signup in active] == ["2", "1"]


async def test_expired_signups_are_found_in_whatever_way_their_dates_are_spelled(db: Db) -> None:
    dates = {
        "a": "2026-01-31T07:59:59.9999999",  # before, by one tick
        "b": "2026-01-31T07:59:59.9999999Z",
        "c": "2026-01-31T09:59:59+02:00",  # before, though its text sorts after
        "d": "2026-01-31T07:59",
        "e": "2026-01-30",
        "f": "0001-01-01T00:00:00",
        "q": "2026-01-31T08:00:00",  # not before
        "r": "2026-01-31T06:00:00-02:00",
        "s": "2026-01-31T08:00:00.0000000Z",
        "t": "2026-01-31T07:30:00-01:00",  # after, though its text sorts before
        "u": "9999-12-31T23:59:59.9999999",
    }
    for id_, text in dates.items():
        await db.seed(PENDING_SIGNUPS, {"id": id_, "email": "a@x", "ExpiresAt": text})
    async with db.unit_of_work() as work:
        expired = await work.of(PendingSignups).expired(NOW)
        assert [signup.id for signup in expired] == ["a", "b", "c", "d", "e", "f"]
        later = Query((NotBefore("expires_at", NOW),))
        assert [signup.id for signup in await work[PendingSignup].list(later)] == ["q", "r", "s", "t", "u"]
        assert await work[PendingSignup].count(later) == 5
        both = Query((NotBefore("expires_at", _at(-60)), Before("expires_at", NOW)), limit=3)
        assert [signup.id for signup in await work[PendingSignup].list(both)] == ["a", "b", "c"]


# -- sessions

SPELLINGS: dict[str, dict[str, Any]] = {
    "1": {"Status": "InProgress", "StartTime": "2026-01-31T08:01:00"},
    "2": {"Status": 1, "StartTime": "2026-01-31T08:02:00.0000000Z"},
    "3": {"Status": "Paused", "StartTime": "2026-01-31T08:03:00.1234567"},
    "4": {"Status": 2, "StartTime": "2026-01-31T10:04:00+02:00"},
    "5": {"Status": 0, "StartTime": "2026-01-31T08:05:00"},
    "6": {"StartTime": "2026-01-31T08:06:00"},
    "7": {"Status": "Completed", "StartTime": "2026-01-31T08:07:00"},
    "8": {"Status": 4, "StartTime": "2026-01-31T08:08:00"},
}


async def test_sessions_are_found_newest_first_in_old_spellings_and_new_ones(db: Db) -> None:
    for id_, properties in SPELLINGS.items():
        await db.seed(GAME_SESSIONS, {"id": id_, "accountId": "a", "ScenarioId": "x", "ProfileId": "p", **properties})
    await db.seed(GAME_SESSIONS, {"id": "9", "accountId": "b", "ScenarioId": "x", "ProfileId": "p", "Status": 1})
    async with db.unit_of_work() as work:
        sessions = work.of(GameSessions)
        assert [session.id for session in await sessions.by_account("a")] == ["8", "7", "6", "5", "4", "3", "2", "1"]
        assert [session.id for session in await sessions.by_profile("p")] == [
            "8",
            "7",
            "6",
            "5",
            "4",
            "3",
            "2",
            "1",
            "9",
        ]
        assert [session.id for session in await sessions.in_progress()] == ["2", "1", "9"]
        active = await sessions.active_by_scenario_and_account("x", "a")
        assert [session.id for session in active] == ["4", "3", "2", "1"]
        assert await sessions.active_by_scenario_and_account("y", "a") == []
        assert await sessions.active_by_scenario_and_account("x", "c") == []
        assert await sessions.active_count() == 5
        waiting = Query((Equals("status", SessionStatus.NOT_STARTED),))
        assert [session.id for session in await work[GameSession].list(waiting)] == ["5", "6"]


async def test_sessions_that_began_together_come_in_the_order_of_their_ids(db: Db) -> None:
    for id_ in ("c", "a", "B", "b"):
        await save(db, GameSession(id=id_, account_id="a", start_time=NOW))
    await save(db, GameSession(id="z", account_id="a", start_time=_at(1)))
    async with db.unit_of_work() as work:
        assert [session.id for session in await work.of(GameSessions).by_account("a")] == ["z", "B", "a", "b", "c"]


async def test_times_that_are_not_there_sort_below_everything(db: Db) -> None:
    await save(
        db,
        GameSession(id="1", account_id="a", end_time=NOW),
        GameSession(id="2", account_id="a"),
        GameSession(id="3", account_id="a", end_time=_at(-1)),
    )
    async with db.unit_of_work() as work:
        by_end = Query((Equals("account_id", "a"),), Order("end_time"))
        assert [session.id for session in await work[GameSession].list(by_end)] == ["2", "3", "1"]
        newest = Query((Equals("account_id", "a"),), Order("end_time", descending=True))
        assert [session.id for session in await work[GameSession].list(newest)] == ["1", "3", "2"]


async def test_an_empty_choice_finds_nothing_and_conditions_must_all_hold(db: Db) -> None:
    await save(db, GameSession(id="1", account_id="a", scenario_id="x"))
    async with db.unit_of_work() as work:
        sessions = work[GameSession]
        assert await sessions.list(Query((OneOf("scenario_id", ()),))) == []
        assert await sessions.count(Query((OneOf("selected_character_id", (None,)),))) == 1
        assert await sessions.count(Query((OneOf("selected_character_id", ("none of them", None)),))) == 1
        assert await sessions.count(Query((OneOf("selected_character_id", ("none of them",)),))) == 0
        assert await sessions.count(Query((OneOf("scenario_id", ()),))) == 0
        assert await sessions.count(Query((OneOf("scenario_id", ("x", "y")), Equals("account_id", "a")))) == 1
        assert await sessions.count(Query((OneOf("scenario_id", ("x", "y")), Equals("account_id", "b")))) == 0
