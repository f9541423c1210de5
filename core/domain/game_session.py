"""What is being played: the aggregate of the container `GameSessions`."""

import builtins
from typing import Any

from pydantic import Field

from core.domain.shapes import UNSET, Listed, Mapped, Number, StoredEntity, StoredEnum, StoredPart
from core.instant import Instant
from core.query import Condition, Equals, OneOf, Order, Query
from core.repository import EntityRepository


class SessionStatus(StoredEnum):
    """Where a session stands; the order is that of the numbers in old documents."""

    NOT_STARTED = "NotStarted"
    IN_PROGRESS = "InProgress"
    PAUSED = "Paused"
    COMPLETED = "Completed"
    ABANDONED = "Abandoned"


ACTIVE = (SessionStatus.IN_PROGRESS, SessionStatus.PAUSED)


class Choice(StoredPart):
    """A choice that a player made."""

    scene_id: str = ""
    scene_title: str = ""
    choice_text: str = ""
    next_scene: str = ""
    player_id: str = ""
    compass_axis: str | None = None
    compass_direction: str | None = None
    compass_delta: Number | None = None
    chosen_at: Instant = UNSET


class Echo(StoredPart):
    """What a choice left behind."""

    echo_type: str = ""
    description: str = ""
    strength: Number = 0
    timestamp: Instant = UNSET


class Compass(StoredPart):
    """Where a session stands on one axis."""

    current_value: Number = 0
    starting_value: Number = 0
    history: list[Any] = Field(default_factory=list)
    last_updated: Instant = UNSET


class GameSession(StoredEntity):
    """A story being played. Its partition key is its account, which may arrive later than it does."""

    scenario_id: str = ""
    account_id: str = Field(alias="accountId")
    profile_id: str = ""
    player_names: Listed[str] = Field(default_factory=list)
    status: SessionStatus = SessionStatus.NOT_STARTED
    current_scene_id: str = ""
    choice_history: list[Choice] = Field(default_factory=list)
    echo_history: list[Echo] = Field(default_factory=list)
    compass_values: Mapped[Compass] = Field(default_factory=dict)
    achievements: Listed[Any] = Field(default_factory=list)
    character_assignments: Listed[Any] = Field(default_factory=list)
    start_time: Instant = UNSET
    end_time: Instant | None = None
    elapsed_time: str = "00:00:00"
    is_paused: bool = False
    paused_at: Instant | None = None
    scene_count: int = 0
    target_age_group_name: str = ""
    selected_character_id: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether the session can go on: in progress or paused."""
        return self.status in ACTIVE


class GameSessions(EntityRepository[GameSession]):
    """The sessions and their look-ups, newest first."""

    model = GameSession

    async def by_account(self, account_id: str) -> builtins.list[GameSession]:
        """Return an account's sessions."""
        return await self._newest_first(Equals("account_id", account_id))

    async def by_profile(self, profile_id: str) -> builtins.list[GameSession]:
        """Return a profile's sessions, whatever the account."""
        return await self._newest_first(Equals("profile_id", profile_id))

    async def in_progress(self) -> builtins.list[GameSession]:
        """Return all sessions that are being played now; paused ones are not."""
        return await self._newest_first(Equals("status", SessionStatus.IN_PROGRESS))

    async def active_by_scenario_and_account(self, scenario_id: str, account_id: str) -> builtins.list[GameSession]:
        """Return an account's sessions of a scenario that can go on."""
        return await self._newest_first(
            Equals("account_id", account_id), Equals("scenario_id", scenario_id), OneOf("status", ACTIVE)
        )

    async def active_count(self) -> int:
        """Count all sessions that can go on."""
        return await self.count(Query((OneOf("status", ACTIVE),)))

    async def _newest_first(self, *where: Condition) -> builtins.list[GameSession]:
        return await self.list(Query(where, Order("start_time", descending=True)))
