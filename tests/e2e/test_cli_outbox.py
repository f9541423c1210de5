"""`crossfeed outbox`: what waits is shown, sent again, and cut into another number of slots."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.integration.log_steps import events, pass_all, states
from tests.integration.relay_steps import make_primary
from tests.integration.relay_steps import run as execute

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings
    from tests.e2e.conftest import Run


@pytest.fixture
async def log(engine: AsyncEngine) -> AsyncEngine:
    """A log of states and events that were sent, but for one of each."""
    await make_primary(engine)
    await execute(engine, states(100), events(50))
    await pass_all(engine)
    await execute(engine, states(1), events(1))
    return engine


def slots(settings: Settings) -> int:
    with psycopg.connect(settings.require_postgres()) as connection:
        [found] = connection.execute("SELECT count(*) FROM crossfeed.slot").fetchone() or [0]
        return int(found)


def test_the_status_is_shown_to_people_and_to_programs(run: Run, log: AsyncEngine) -> None:
    code, output, _ = run("outbox", "status", "--json")
    found = json.loads(output)
    assert code == 0
    assert (found["states"]["messages"], found["events"]["messages"], len(found["slots"])) == (1, 1, 32)
    assert found["partitions"][0]["from_seq"] == 1
    assert found["retention_held_s"] is None
    code, output, _ = run("outbox", "status")
    assert code == 0
    assert "states  1, the oldest 0." in output
    assert "slots without a relay 32" in output


def test_a_replay_is_planned_then_done(run: Run, log: AsyncEngine) -> None:
    for dry in (["--dry-run"], []):
        code, output, _ = run("outbox", "replay", "--since", "1h", *dry)
        assert code == 0
        assert ("would be sent again" in output) == bool(dry)
        assert output.startswith("101 messages of 100 documents since ")
    code, output, _ = run("outbox", "replay", "--since", "2026-01-31T08:00", "--events", "--json")
    assert (code, json.loads(output)["messages"]) == (0, 152)
    assert json.loads(run("outbox", "status", "--json")[1])["states"]["messages"] == 101
    code, _, errors = run("outbox", "replay", "--since", "yesterday")
    assert code == 2
    assert "neither a date and time" in errors


def test_the_number_of_slots_is_changed_when_everything_was_sent(
    run: Run, log: AsyncEngine, settings: Settings
) -> None:
    code, output, errors = run("outbox", "slots", "--to", "4")
    assert (code, output, slots(settings)) == (1, "", 32)
    assert "have messages that are not sent" in errors
    with psycopg.connect(settings.require_postgres()) as connection:
        connection.execute("UPDATE crossfeed.slot SET seen = pg_current_snapshot()")
    code, output, _ = run("outbox", "slots", "--to", "4")
    assert (code, slots(settings)) == (0, 8)
    assert "4 slots for states and 4 for events" in output
    assert run("outbox", "slots", "--to", "0")[0] == 2
