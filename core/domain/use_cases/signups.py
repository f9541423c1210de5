"""What happens to sign-ups."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from core.domain.pending_signup import LIFETIME, MAX_FAILED_ATTEMPTS, PendingSignup, PendingSignups
from core.domain.use_cases.common import found
from core.instant import Instant

if TYPE_CHECKING:
    from core.domain.use_cases.common import UnitOfWorkFactory
    from core.repository import UnitOfWork


class Verification(Enum):
    """What came of a code that somebody typed."""

    ACCEPTED = "accepted"
    WRONG_CODE = "wrong code"
    TOO_MANY_ATTEMPTS = "too many attempts"
    NOTHING_PENDING = "nothing pending"


async def sign_up(  # noqa: PLR0913 - what a sign-up begins with
    work: UnitOfWork, *, id_: str, email: str, display_name: str, code: str, now: Instant, is_signin: bool = False
) -> PendingSignup:
    """Add a sign-up; earlier ones of the same e-mail, which share its partition, are used up by it."""
    for earlier in await work.of(PendingSignups).active_by_email(email, now):
        earlier.is_used = True
        await work[PendingSignup].update(earlier)
    signup = PendingSignup(
        id=id_,
        email=email,
        display_name=display_name,
        code=code,
        created_at=now,
        expires_at=Instant.at(now + LIFETIME),
        is_signin=is_signin,
    )
    await work[PendingSignup].add(signup)
    return signup


async def verify_code(work: UnitOfWork, *, email: str, code: str, now: Instant) -> Verification:
    """Try a code on the newest active sign-up of an e-mail; a wrong one counts as a failed attempt."""
    active = await work.of(PendingSignups).active_by_email(email, now)
    if not active:
        return Verification.NOTHING_PENDING
    signup = active[0]
    if signup.code == code:
        signup.is_used = True
        outcome = Verification.ACCEPTED
    else:
        signup.failed_attempts += 1
        exhausted = signup.failed_attempts >= MAX_FAILED_ATTEMPTS
        outcome = Verification.TOO_MANY_ATTEMPTS if exhausted else Verification.WRONG_CODE
    await work[PendingSignup].update(signup)
    return outcome


async def change_signup_email(units: UnitOfWorkFactory, id_: str, *, email: str, new_email: str) -> PendingSignup:
    """Move a sign-up to another e-mail, its partition key: created there first, deleted here second, so never lost."""
    async with units() as work:
        old = await found(work, PendingSignup, id_, email)
    moved = PendingSignup.model_validate(old.model_dump(by_alias=True) | {"email": new_email})
    if new_email == email:
        return old
    async with units() as work:
        if not await work[PendingSignup].exists(id_, partition_key=new_email):
            await work[PendingSignup].add(moved)
            await work.commit()
    async with units() as work:
        await work[PendingSignup].delete(old)
        await work.commit()
    return moved


async def delete_signup(work: UnitOfWork, id_: str, *, email: str) -> None:
    """Delete a sign-up."""
    await work[PendingSignup].delete(await found(work, PendingSignup, id_, email))
