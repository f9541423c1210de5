"""The command `crossfeed outbox resync`, as whoever restored a database uses it."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.postgres.engine import open_engine
from outbox.relay import open_relay
from tests.integration.relay_steps import letters, make_primary
from tests.integration.relay_steps import run as execute

if TYPE_CHECKING:
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run


@pytest.fixture
def restored(settings: Settings, mappings: Mappings) -> None:
    """A database that forgot one of the two accounts that it sent, with its tombstone."""

    async def build() -> None:
        async with open_cosmos(settings) as cosmos, open_engine(settings) as engine:
            await cosmos.provision(mappings)
            await make_primary(engine)
            await execute(engine, "INSERT INTO accounts (id) VALUES ('kept'), ('lost')")
            await open_relay(settings, mappings, engine, cosmos).drain()
            await execute(engine, "DELETE FROM accounts WHERE id = 'lost'", "DELETE FROM crossfeed.tombstone")

    asyncio.run(build())


def test_a_resync_is_planned_asked_for_and_done(
    run: Run, restored: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output, _ = run("outbox", "resync", "--dry-run", "--json")
    plan = json.loads(output)
    assert (code, plan["epoch"], plan["documents"], plan["orphans"], plan["published"]) == (0, None, 2, 1, 0)

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, output, errors = run("outbox", "resync")
    assert (code, output.strip()) == (1, "")
    assert "Is this the database that is to be the truth" in errors

    code, output, _ = run("outbox", "resync", "--yes", "--json", relay_lease_s="0.2")
    assert (code, json.loads(output)) == (
        0,
        {
            "phase": "dual_write_postgres_read",
            "epoch": 3,
            "published": 2,
            "documents": 2,
            "lost_states": 0,
            "orphans": 1,
            "unreadable": 0,
        },
    )

    async def kept() -> list[tuple[object, ...]]:
        async with open_engine(settings) as engine:
            return await letters(engine)

    assert [letter[:3] for letter in asyncio.run(kept())] == [("to_postgres", "lost", "lost")]


def test_a_cluster_that_lost_nothing_goes_on_without_a_resync(run: Run, restored: None, settings: Settings) -> None:
    code, output, _ = run("outbox", "resync", "--nothing-lost", "--yes", "--json")
    assert (code, json.loads(output)) == (0, {"epoch": 2})
    assert run("outbox", "resync", "--nothing-lost", "--dry-run")[0] == 2

    async def lose() -> None:
        async with open_engine(settings) as engine:
            await execute(engine, "DELETE FROM crossfeed.outbox")

    asyncio.run(lose())
    code, _, errors = run("outbox", "resync", "--nothing-lost", "--yes")
    assert code == 1
    assert "were sent and are not in it any more" in errors
