"""A switch whose process is gone: what it leaves is said, and anybody goes on with it or cancels it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from core.errors import ConflictError, PrimaryMovedError
from core.mappings import Mappings
from core.migration.report import Outcome
from core.postgres.switch_record import SwitchStep
from tests.integration.migration_steps import COSMOS, POSTGRES, Town, asks_nothing, quick_town

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.phases import Phase
    from core.settings import Settings


@pytest.fixture
def town(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> Town:
    """An installation whose primary moves; nothing is asked before the drain."""
    monkeypatch.setattr("core.migration.switch.preflight", asks_nothing)
    return quick_town(settings, engine, cosmos, mappings)


class KilledError(BaseException):
    """What stands for kill -9: nothing is done after it."""


async def _dies(*_: object, **__: object) -> None:
    raise KilledError


async def _does_nothing(*_: object, **__: object) -> None:
    pass


PLACES = {
    "drained": "core.migration.approach.Approach.arrive",
    "arrived": "core.migration.approach.Approach.check_letters",
    "verified": "core.migration.approach.Approach.flip",
    "flipped": "core.migration.drained.complete",
    "announced": "core.migration.ending.finish_switch",
}


async def left_by_a_crash(town: Town, monkeypatch: pytest.MonkeyPatch, to: Phase, place: str) -> SwitchStep:
    """Begin a switch whose process is killed; return what it leaves behind."""
    with monkeypatch.context() as killed:
        killed.setattr(PLACES[place], _dies)
        killed.setattr("core.migration.drained.put_back", _does_nothing)
        with pytest.raises(KilledError):
            await town.to(to)
    left = await town.pending()
    assert left is not None
    return left.step


@pytest.mark.parametrize("place", ["drained", "arrived", pytest.param("verified", marks=pytest.mark.chaos)])
async def test_a_switch_killed_before_the_flip_is_resumed_or_cancelled_from_what_is_recorded(
    town: Town, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    await town.put(POSTGRES)
    async with town.relaying():
        assert await left_by_a_crash(town, monkeypatch, COSMOS, place) is SwitchStep.DRAINING
        with pytest.raises(PrimaryMovedError):
            await town.add("a")
        cancelled = await town.migration.cancel(who="you", why="a test")
        assert cancelled.outcome is Outcome.CANCELLED
        assert await town.is_as_before(POSTGRES, 2)
        await town.add("a")
        assert await left_by_a_crash(town, monkeypatch, COSMOS, place) is SwitchStep.DRAINING
        narrow = replace(town, mappings=Mappings(list(town.mappings)[:1]))
        assert [check.name for check in (await narrow.resume()).refused_by] == ["mappings"]
        assert (await town.resume()).is_done
    assert await town.documents() == {"a"}
    assert await town.watermarks() == {2, 3}


@pytest.mark.parametrize("place", ["flipped", pytest.param("announced", marks=pytest.mark.chaos)])
async def test_a_switch_killed_after_the_flip_is_resumed_and_cannot_be_cancelled(
    town: Town, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    await town.put(COSMOS)
    async with town.mirroring():
        assert await left_by_a_crash(town, monkeypatch, POSTGRES, place) is SwitchStep.OPENED
        await town.add("a")
        with pytest.raises(ConflictError, match="resume"):
            await town.migration.cancel(who="you", why="a test")
        report = await town.resume()
    assert report.is_done
    assert report.pause_ms is not None
    assert await town.watermarks() == {2, 3}
    with pytest.raises(ConflictError, match="no switch"):
        await town.resume()
