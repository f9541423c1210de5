"""What happens to profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.domain.account import Account
from core.domain.use_cases.common import found
from core.domain.user_profile import UserProfile
from core.errors import AlreadyExistsError

if TYPE_CHECKING:
    from core.domain.use_cases.common import UnitOfWorkFactory
    from core.domain.user_profile import Badge
    from core.instant import Instant
    from core.repository import UnitOfWork


async def create_profile(  # noqa: PLR0913 - what a profile begins with
    units: UnitOfWorkFactory, *, id_: str, name: str, account_id: str, now: Instant, age_group_name: str = "6-9"
) -> UserProfile:
    """Add a profile, then list it in its account: two partitions, two units of work."""
    profile = UserProfile(
        id=id_, name=name, account_id=account_id, age_group_name=age_group_name, created_at=now, updated_at=now
    )
    async with units() as work:
        existing = await work[UserProfile].get_by_id(id_, partition_key=id_)
        if existing is None:
            await work[UserProfile].add(profile)
            await work.commit()
        elif existing.account_id != account_id:
            msg = f"profile {id_!r} belongs to another account"
            raise AlreadyExistsError(msg)
    async with units() as work:
        account = await found(work, Account, account_id, account_id)
        if id_ not in account.user_profile_ids:
            account.user_profile_ids.append(id_)
            await work[Account].update(account)
            await work.commit()
    return existing or profile


async def add_guest(work: UnitOfWork, *, id_: str, name: str, now: Instant) -> UserProfile:
    """Add the profile of a guest, who has no account."""
    guest = UserProfile(id=id_, name=name, is_guest=True, created_at=now, updated_at=now)
    await work[UserProfile].add(guest)
    return guest


async def award_badge(work: UnitOfWork, profile_id: str, *, badge: Badge, now: Instant) -> UserProfile:
    """Give a badge to a profile, once per configured badge."""
    profile = await found(work, UserProfile, profile_id, profile_id)
    if all(earned.badge_configuration_id != badge.badge_configuration_id for earned in profile.earned_badges):
        profile.earned_badges.append(badge)
        profile.updated_at = now
        await work[UserProfile].update(profile)
    return profile


async def delete_profile(work: UnitOfWork, id_: str) -> None:
    """Delete a profile."""
    await work[UserProfile].delete(await found(work, UserProfile, id_, id_))
