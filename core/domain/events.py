"""What has happened to the example's aggregates, for whoever wants to know."""

from core.domain.game_session import SessionStatus
from core.events import Event, EventRegistry
from core.instant import Instant


class AccountRegistered(Event, name="account.registered"):
    """A family has begun."""

    email: str
    display_name: str


class SessionFinished(Event, name="session.finished"):
    """A story was played to its end."""

    scenario_id: str
    profile_id: str
    status: SessionStatus
    scenes: int
    finished_at: Instant


EVENTS = EventRegistry([AccountRegistered, SessionFinished])
