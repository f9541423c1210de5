"""Who pays and logs in: the aggregate of the container `Accounts`."""

from pydantic import Field

from core.domain.shapes import UNSET, Listed, StoredEntity, StoredEnum, StoredPart
from core.instant import Instant
from core.query import Equals, Query
from core.repository import EntityRepository


class SubscriptionType(StoredEnum):
    """How an account pays; the order is that of the numbers in old documents."""

    FREE = "Free"
    MONTHLY = "Monthly"
    ANNUAL = "Annual"
    LIFETIME = "Lifetime"
    INDIVIDUAL = "Individual"


class Subscription(StoredPart):
    """What an account has bought."""

    type: SubscriptionType = SubscriptionType.FREE
    product_id: str = ""
    valid_until: Instant | None = None
    is_active: bool = False
    purchase_token: str | None = None
    last_verified: Instant | None = None
    purchased_scenarios: Listed[str] = Field(default_factory=list)
    tier: str = ""
    start_date: Instant | None = None
    end_date: Instant | None = None


class AccountSettings(StoredPart):
    """What an account's owner has chosen."""

    cache_credentials: bool = False
    require_auth_on_startup: bool = False
    preferred_language: str = "en"
    notifications_enabled: bool = False
    theme: str | None = "Light"


class Account(StoredEntity):
    """A family's account. Its partition key is its id."""

    email: str = ""
    auth0_user_id: str = ""
    display_name: str = ""
    role: str = "Guest"
    user_profile_ids: Listed[str] = Field(default_factory=list)
    completed_scenario_ids: Listed[str] = Field(default_factory=list)
    subscription: Subscription = Field(default_factory=Subscription)
    settings: AccountSettings = Field(default_factory=AccountSettings)
    created_at: Instant = UNSET
    last_login_at: Instant = UNSET


class Accounts(EntityRepository[Account]):
    """The accounts and their look-ups."""

    model = Account

    async def get_by_email(self, email: str) -> Account | None:
        """Return the account with this e-mail, whatever its case; of several, the one with the lowest id."""
        return await self.first(_by_email(email))

    async def exists_by_email(self, email: str) -> bool:
        """Whether an account has this e-mail, whatever its case."""
        return await self.count(_by_email(email)) > 0

    async def get_by_auth0_user_id(self, auth0_user_id: str) -> Account | None:
        """Return the account of this Auth0 user."""
        return await self.first(Query((Equals("auth0_user_id", auth0_user_id),)))


def _by_email(email: str) -> Query:
    return Query((Equals("email", email, ignore_case=True),))
