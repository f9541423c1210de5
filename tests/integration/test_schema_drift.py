"""Schema drift: a property of a new type condemns its document alone, which is applied once somebody has caught up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from core.domain.game_session import GameSession
from core.domain.mappings import GAME_SESSIONS
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.dead_letter_search import Selection, count
from core.postgres.phases import open_phase
from core.projection import same_json
from functions.bootstrap import bootstrap
from functions.letters import Act, act_on
from tests.integration.foreign_steps import session
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import letters, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.settings import Settings
    from functions.bootstrap import Application
    from functions.letters import Report

DRIFTED: dict[str, dict[str, Any]] = {
    "text-for-number": {"SceneCount": "seven"},
    "null-for-number": {"SceneCount": None},
    "fraction-for-count": {"SceneCount": 1.5},
    "number-too-large": {"SceneCount": 2**63},
    "number-beyond-all": {"SceneCount": 2**70},
    "object-for-text": {"ScenarioId": {"Id": "scenario-1"}},
    "number-for-text": {"ScenarioId": 12},
    "text-for-flag": {"IsPaused": "perhaps"},
    "list-for-map": {"CompassValues": ["courage"]},
    "unknown-choice": {"Status": "Dreaming"},
    "unknown-number-of-a-choice": {"Status": 9},
    "no-date": {"StartTime": "yesterday"},
    "year-beyond-all": {"StartTime": "10000-01-01T00:00:00Z"},
    "object-for-list": {"ChoiceHistory": {"first": {}}},
    "number-inside": {"ChoiceHistory": [{"SceneId": 7}]},
    "nul": {"ScenarioId": "a\0b"},
}
LIFTED = {"number-too-large", "number-beyond-all", "fraction-for-count", "unknown-choice"}
"""Those that fit a wider column and a looser model."""
NEW: dict[str, Any] = {"Mood": {"since": "2026", "of": [1, None]}, "Rating": 4.5, "Tags": "a,b", "Hidden": True}
"""Properties that nobody knows are no drift: of whatever type, they are kept."""


class Looser(GameSession):
    """What the application knows after it has caught up."""

    status: str = "NotStarted"  # type: ignore[assignment]
    scene_count: float = 0  # type: ignore[assignment]


@pytest.fixture
async def drifted(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    """Half of a batch of documents has drifted, and was mirrored."""
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    steps = Steps(engine, cosmos, mappings, GAME_SESSIONS)
    for serial, (id_, change) in enumerate(DRIFTED.items()):
        await cosmos.container(GAME_SESSIONS).create_item(good(id_, 2 * serial) | {"id": id_} | change)
        await cosmos.container(GAME_SESSIONS).create_item(good(id_, serial))
    outcome = await steps.apply(await steps.watch())
    assert (outcome.applied, outcome.dead_lettered) == (len(DRIFTED), len(DRIFTED))
    return steps


def good(id_: str, serial: int) -> Document:
    return session(("ann", f"good-{id_}"), serial) | NEW


async def replay(steps: Steps, settings: Settings, mappings: Mappings) -> Report:
    async with steps.engine.connect() as connection:
        found = await count(connection, Selection())
    async with bootstrap(settings, mappings=mappings, engine=steps.engine, store=steps.store) as opened:

        async def application() -> Application:
            return opened

        return await act_on(Act.REPLAY, steps.engine, Selection(), found.at, None, application, dry_run=False)


async def test_what_has_drifted_is_put_aside_by_document_and_the_rest_is_applied(
    drifted: Steps, engine: AsyncEngine
) -> None:
    for serial, id_ in enumerate(DRIFTED):
        content = await drifted.content(f"good-{id_}", "ann")
        assert content is not None, id_
        assert same_json(content, good(id_, serial))
        assert await drifted.content(id_, "ann") is None
    found = {letter[2]: letter[4] for letter in await letters(engine)}
    assert found.keys() == DRIFTED.keys()
    assert "SceneCount" in found["text-for-number"]
    assert "ChoiceHistory.0.SceneId" in found["number-inside"]
    assert not any(value in "".join(found.values()) for value in ("seven", "perhaps", "Dreaming", "yesterday"))


async def test_what_the_writer_puts_right_is_applied_and_its_letter_is_gone(
    drifted: Steps, engine: AsyncEngine
) -> None:
    for serial, id_ in enumerate(DRIFTED):
        await drifted.store.container(GAME_SESSIONS).upsert_item(good(id_, serial) | {"id": id_})
    outcome = await drifted.apply(await drifted.watch())
    assert (outcome.applied, outcome.dead_lettered) == (len(DRIFTED), 0)
    assert await letters(engine) == []


async def test_what_the_application_catches_up_with_is_applied_by_a_replay(
    drifted: Steps, engine: AsyncEngine, settings: Settings
) -> None:
    assert (await replay(drifted, settings, drifted.mappings)).done == []
    await run(engine, "ALTER TABLE game_sessions ALTER scene_count TYPE double precision")
    table = GAME_SESSIONS.table.to_metadata(sa.MetaData())
    table.columns["scene_count"].type = sa.Double()
    caught_up = EntityMapping(
        Looser,
        table=table,
        container=GAME_SESSIONS.container,
        partition_key="/accountId",
        name="GameSession",
    )
    report = await replay(drifted, settings, Mappings([caught_up]))
    assert len(report.done) == len(LIFTED)
    drifted.mapping = caught_up
    for id_ in LIFTED:
        content = await drifted.content(id_, "ann")
        assert content is not None
        assert all(same_json(content[name], value) for name, value in DRIFTED[id_].items())
    assert {letter[2] for letter in await letters(engine)} == DRIFTED.keys() - LIFTED
