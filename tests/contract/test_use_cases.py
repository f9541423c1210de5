"""The example's use cases, which know nothing of the store that they run on."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from core.domain import use_cases
from core.domain.account import Account, Subscription, SubscriptionType
from core.domain.game_session import Choice, GameSession, GameSessions, SessionStatus
from core.domain.pending_signup import PendingSignup
from core.domain.use_cases import Verification
from core.domain.user_profile import Badge, UserProfile, UserProfiles
from core.errors import AlreadyExistsError, NotFoundError
from core.instant import Instant
from tests.contract.stores import in_unit, save

if TYPE_CHECKING:
    from tests.contract.stores import Db

NOW = Instant.parse("2026-01-31T08:00:00Z")


def _later(minutes: float) -> Instant:
    return Instant.at(NOW + timedelta(minutes=minutes))


async def test_an_account_lives(db: Db) -> None:
    await in_unit(
        db,
        lambda work: use_cases.register_account(
            work, id_="a", email="Ann@x.org", auth0_user_id="auth0|1", display_name="Ann", now=NOW
        ),
    )
    async with db.unit_of_work() as work:
        with pytest.raises(AlreadyExistsError):
            await use_cases.register_account(
                work, id_="b", email="ANN@X.org", auth0_user_id="auth0|2", display_name="Ann", now=NOW
            )
    await in_unit(db, lambda work: use_cases.rename_account(work, "a", display_name="Lee, Ann"))
    await in_unit(db, lambda work: use_cases.change_account_email(work, "a", email="lee@x.org"))
    await in_unit(db, lambda work: use_cases.log_in(work, "a", now=_later(1)))
    for scenarios in (["x"], ["y", "x"]):
        annual = Subscription(type=SubscriptionType.ANNUAL, is_active=True, purchased_scenarios=scenarios)
        await in_unit(db, partial(use_cases.subscribe, id_="a", subscription=annual))
        await in_unit(db, lambda work: use_cases.complete_scenario(work, "a", scenario_id="x"))
    async with db.unit_of_work() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        assert (account.display_name, account.email, account.last_login_at) == ("Lee, Ann", "lee@x.org", _later(1))
        assert account.subscription.purchased_scenarios == ["x", "y"]
        assert account.completed_scenario_ids == ["x"]
    await in_unit(db, lambda work: use_cases.delete_account(work, "a"))
    async with db.unit_of_work() as work:
        with pytest.raises(NotFoundError):
            await use_cases.rename_account(work, "a", display_name="nobody")


async def test_a_profile_is_created_and_listed_in_its_account_also_after_a_crash_between_the_two(db: Db) -> None:
    await save(db, Account(id="a"))
    await save(db, Account(id="b"))
    await save(db, UserProfile(id="p", name="Zoe", account_id="a"))  # as far as the crash let it come
    for _ in range(2):
        await use_cases.create_profile(db.unit_of_work, id_="p", name="Zoe", account_id="a", now=NOW)
    with pytest.raises(AlreadyExistsError):
        await use_cases.create_profile(db.unit_of_work, id_="p", name="Zoe", account_id="b", now=NOW)
    await use_cases.create_profile(db.unit_of_work, id_="q", name="Bob", account_id="a", now=NOW)
    badge = Badge(id="1", badge_configuration_id="brave", earned_at=NOW)
    for _ in range(2):
        await in_unit(db, lambda work: use_cases.award_badge(work, "p", badge=badge, now=_later(1)))
    await in_unit(db, lambda work: use_cases.add_guest(work, id_="g", name="Guest", now=NOW))
    async with db.unit_of_work() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        assert account.user_profile_ids == ["p", "q"]
        profiles = work.of(UserProfiles)
        assert [(profile.id, len(profile.earned_badges)) for profile in await profiles.by_account("a")] == [
            ("q", 0),
            ("p", 1),
        ]
        assert [profile.id for profile in await profiles.guests()] == ["g"]
    await in_unit(db, lambda work: use_cases.delete_profile(work, "p"))
    async with db.unit_of_work() as work:
        assert not await work[UserProfile].exists("p")


async def test_a_session_is_played(db: Db) -> None:
    await in_unit(
        db,
        lambda work: use_cases.start_session(
            work, id_="s", account_id="a", profile_id="p", scenario_id="x", player_names=["Lee, Ann"], now=NOW
        ),
    )
    for scene in ("1", "2"):
        choice = Choice(scene_id=scene, next_scene=f"after {scene}", chosen_at=_later(1))
        await in_unit(db, partial(use_cases.advance_session, id_="s", account_id="a", choice=choice))
    await in_unit(db, lambda work: use_cases.pause_session(work, "s", account_id="a", now=_later(2)))
    async with db.unit_of_work() as work:
        sessions = work.of(GameSessions)
        assert await sessions.active_count() == 1
        assert await sessions.in_progress() == []
        with pytest.raises(use_cases.NotAllowedError):
            await use_cases.finish_session(work, "s", account_id="a", now=_later(3))
    await in_unit(db, lambda work: use_cases.resume_session(work, "s", account_id="a"))
    await in_unit(db, lambda work: use_cases.finish_session(work, "s", account_id="a", now=_later(62.5)))
    async with db.unit_of_work() as work:
        session = await work[GameSession].get_by_id("s", partition_key="a")
        assert session is not None
        assert (session.status, session.elapsed_time) == (SessionStatus.COMPLETED, "01:02:30")
        assert (session.current_scene_id, session.scene_count, session.paused_at) == ("after 2", 2, None)
        assert await work.of(GameSessions).active_count() == 0
    await in_unit(db, lambda work: use_cases.delete_session(work, "s", account_id="a"))
    async with db.unit_of_work() as work:
        assert await work[GameSession].count() == 0


async def _sign_up(db: Db, id_: str, code: str, minutes: float = 0) -> PendingSignup:
    return await in_unit(
        db,
        lambda work: use_cases.sign_up(
            work, id_=id_, email="Ann@x.org", display_name="Ann", code=code, now=_later(minutes)
        ),
    )


async def _verify(db: Db, code: str, minutes: float = 1) -> Verification:
    return await in_unit(
        db, lambda work: use_cases.verify_code(work, email="Ann@x.org", code=code, now=_later(minutes))
    )


async def test_a_code_is_accepted_once_and_in_time(db: Db) -> None:
    assert await _verify(db, "012345") is Verification.NOTHING_PENDING
    await _sign_up(db, "s1", "012345")
    assert await _verify(db, "12345") is Verification.WRONG_CODE
    assert await _verify(db, "012345", minutes=15.01) is Verification.NOTHING_PENDING
    assert await _verify(db, "012345", minutes=15) is Verification.ACCEPTED
    assert await _verify(db, "012345") is Verification.NOTHING_PENDING


async def test_five_wrong_codes_exhaust_a_signup_and_a_new_one_replaces_it(db: Db) -> None:
    await _sign_up(db, "s1", "012345")
    await _sign_up(db, "s2", "543210", minutes=0.5)
    assert await _verify(db, "012345") is Verification.WRONG_CODE
    outcomes = [await _verify(db, "000000") for _ in range(4)]
    assert outcomes == [Verification.WRONG_CODE] * 3 + [Verification.TOO_MANY_ATTEMPTS]
    assert await _verify(db, "543210") is Verification.NOTHING_PENDING
    await _sign_up(db, "s3", "111111", minutes=2)
    assert await _verify(db, "111111", minutes=3) is Verification.ACCEPTED


async def test_a_changed_email_moves_the_signup_also_when_it_is_done_twice(db: Db) -> None:
    signup = await _sign_up(db, "s1", "012345")
    moved = await use_cases.change_signup_email(db.unit_of_work, "s1", email="Ann@x.org", new_email="ann@x.org")
    assert moved.code == signup.code
    async with db.unit_of_work() as work:
        assert not await work[PendingSignup].exists("s1", partition_key="Ann@x.org")
        found = await work[PendingSignup].get_by_id("s1", partition_key="ann@x.org")
        assert found == moved
        assert found.created_at.text == signup.created_at.text
    await save(db, PendingSignup(id="s1", email="Ann@x.org", code="012345"))  # as a crash between the units left it
    await use_cases.change_signup_email(db.unit_of_work, "s1", email="Ann@x.org", new_email="ann@x.org")
    async with db.unit_of_work() as work:
        assert [one.email for one in await work[PendingSignup].list()] == ["ann@x.org"]
    with pytest.raises(NotFoundError):
        await use_cases.change_signup_email(db.unit_of_work, "s1", email="Ann@x.org", new_email="other@x.org")
    await in_unit(db, lambda work: use_cases.delete_signup(work, "s1", email="ann@x.org"))
    async with db.unit_of_work() as work:
        assert await work[PendingSignup].count() == 0
