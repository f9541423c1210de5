"""What happens to sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.domain.events import SessionFinished
from core.domain.game_session import GameSession, SessionStatus
from core.domain.shapes import timespan
from core.domain.use_cases.common import NotAllowedError, found, updated

if TYPE_CHECKING:
    from core.domain.game_session import Choice
    from core.instant import Instant
    from core.repository import UnitOfWork


async def start_session(  # noqa: PLR0913 - what a session begins with
    work: UnitOfWork,
    *,
    id_: str,
    account_id: str,
    profile_id: str,
    scenario_id: str,
    player_names: list[str],
    now: Instant,
) -> GameSession:
    """Begin to play a scenario."""
    session = GameSession(
        id=id_,
        account_id=account_id,
        profile_id=profile_id,
        scenario_id=scenario_id,
        player_names=player_names,
        status=SessionStatus.IN_PROGRESS,
        start_time=now,
    )
    await work[GameSession].add(session)
    return session


async def advance_session(work: UnitOfWork, id_: str, *, account_id: str, choice: Choice) -> GameSession:
    """Make a choice and go on to its next scene."""
    session = await _in_status(work, id_, account_id, SessionStatus.IN_PROGRESS)
    session.choice_history.append(choice)
    session.current_scene_id = choice.next_scene
    session.scene_count += 1
    return await updated(work, session)


async def pause_session(work: UnitOfWork, id_: str, *, account_id: str, now: Instant) -> GameSession:
    """Pause a session that is in progress."""
    session = await _in_status(work, id_, account_id, SessionStatus.IN_PROGRESS)
    session.status, session.is_paused, session.paused_at = SessionStatus.PAUSED, True, now
    return await updated(work, session)


async def resume_session(work: UnitOfWork, id_: str, *, account_id: str) -> GameSession:
    """Go on with a paused session."""
    session = await _in_status(work, id_, account_id, SessionStatus.PAUSED)
    session.status, session.is_paused, session.paused_at = SessionStatus.IN_PROGRESS, False, None
    return await updated(work, session)


async def finish_session(work: UnitOfWork, id_: str, *, account_id: str, now: Instant) -> GameSession:
    """End a session that is in progress."""
    session = await _in_status(work, id_, account_id, SessionStatus.IN_PROGRESS)
    session.status, session.end_time = SessionStatus.COMPLETED, now
    session.elapsed_time = timespan(now - session.start_time)
    finished = SessionFinished(
        scenario_id=session.scenario_id,
        profile_id=session.profile_id,
        status=session.status,
        scenes=session.scene_count,
        finished_at=now,
    )
    work.record(finished, of=session)
    return await updated(work, session)


async def delete_session(work: UnitOfWork, id_: str, *, account_id: str) -> None:
    """Delete a session."""
    await work[GameSession].delete(await found(work, GameSession, id_, account_id))


async def _in_status(work: UnitOfWork, id_: str, account_id: str, status: SessionStatus) -> GameSession:
    session = await found(work, GameSession, id_, account_id)
    if session.status is not status:
        msg = f"session {id_!r} is {session.status}, not {status}"
        raise NotAllowedError(msg)
    return session
