"""Who plays: the aggregate of the container `UserProfiles`."""

import builtins

from pydantic import Field

from core.domain.shapes import UNSET, Listed, Number, StoredEntity, StoredPart
from core.instant import Instant
from core.query import Equals, Order, Query
from core.repository import EntityRepository


class Badge(StoredPart):
    """A badge that was earned."""

    id: str = ""
    badge_configuration_id: str = ""
    badge_name: str = ""
    badge_message: str = ""
    axis: str = ""
    trigger_value: Number = 0
    threshold: Number = 0
    earned_at: Instant = UNSET
    game_session_id: str | None = None
    scenario_id: str | None = None
    image_id: str = ""


class UserProfile(StoredEntity):
    """A child, a guest or a character that is not played. Its partition key is its id."""

    name: str = ""
    preferred_fantasy_themes: Listed[str] = Field(default_factory=list)
    date_of_birth: Instant | None = None
    is_guest: bool = False
    is_npc: bool = False
    age_group_name: str = "6-9"
    avatar_media_id: str | None = None
    selected_avatar_media_id: str | None = None
    earned_badges: list[Badge] = Field(default_factory=list)
    has_completed_onboarding: bool = False
    created_at: Instant = UNSET
    updated_at: Instant = UNSET
    account_id: str | None = None
    pronouns: str | None = None
    bio: str | None = None


class UserProfiles(EntityRepository[UserProfile]):
    """The profiles and their look-ups, ordered by name."""

    model = UserProfile

    async def by_account(self, account_id: str) -> builtins.list[UserProfile]:
        """Return an account's profiles."""
        return await self.list(Query((Equals("account_id", account_id),), Order("name")))

    async def guests(self) -> builtins.list[UserProfile]:
        """Return the profiles of guests."""
        return await self.list(Query((Equals("is_guest", value=True),), Order("name")))

    async def non_guests(self) -> builtins.list[UserProfile]:
        """Return the profiles of everybody else."""
        return await self.list(Query((Equals("is_guest", value=False),), Order("name")))
