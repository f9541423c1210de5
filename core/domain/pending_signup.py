"""Who has asked for an e-mail with a code: the aggregate of the container `PendingSignups`."""

import builtins
from datetime import timedelta

from pydantic import Field

from core.domain.shapes import UNSET, StoredEntity
from core.instant import Instant
from core.query import Before, Equals, NotBefore, Order, Query
from core.repository import EntityRepository

LIFETIME = timedelta(minutes=15)
MAX_FAILED_ATTEMPTS = 5


class PendingSignup(StoredEntity):
    """A sign-up (or sign-in) that waits for its six-digit code. Its partition key is its e-mail, as it was typed."""

    email: str = Field(alias="email")
    display_name: str = ""
    code: str = ""
    created_at: Instant = UNSET
    expires_at: Instant = UNSET
    is_used: bool = False
    is_signin: bool = False
    failed_attempts: int = 0

    def is_active(self, now: Instant) -> bool:
        """Whether the right code would still be accepted."""
        return not self.is_used and self.expires_at >= now and self.failed_attempts < MAX_FAILED_ATTEMPTS


class PendingSignups(EntityRepository[PendingSignup]):
    """The sign-ups and their look-ups. E-mails are compared to the letter: they are the partition key."""

    model = PendingSignup

    async def by_email_and_code(self, email: str, code: str) -> PendingSignup | None:
        """Return the newest sign-up of this e-mail with this code, active or not."""
        return await self.first(Query((Equals("email", email), Equals("code", code)), _NEWEST_FIRST))

    async def active_by_email(self, email: str, now: Instant) -> builtins.list[PendingSignup]:
        """Return the sign-ups of this e-mail whose code would still be accepted, newest first."""
        unused = Query(
            (Equals("email", email), Equals("is_used", value=False), NotBefore("expires_at", now)), _NEWEST_FIRST
        )
        return [signup for signup in await self.list(unused) if signup.is_active(now)]

    async def expired(self, now: Instant) -> builtins.list[PendingSignup]:
        """Return the sign-ups whose time is over, used or not, newest first."""
        return await self.list(Query((Before("expires_at", now),), _NEWEST_FIRST))


_NEWEST_FIRST = Order("created_at", descending=True)
