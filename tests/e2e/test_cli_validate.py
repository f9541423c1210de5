"""The commands `crossfeed validate` and `crossfeed repair`, as an operator and a scheduler use them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.phases import Phase
from core.postgres.engine import open_engine
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import hard_delete, legacy, mirrored
from tests.integration.relay_steps import make_primary

if TYPE_CHECKING:
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run

QUICK = {"reconcile_lag_s": "0", "reconcile_pause_ms": "0"}
NAMED = """\
Account: 3 rows, 3 documents; 1 extra; 1 missing; 1 stale
  stale: ["changed"] 'changed' (Postgres 2.1, Cosmos DB -, in DisplayName)
  extra: ["gone"] 'gone' (Postgres 2.1, Cosmos DB -)
  missing: ["new"] 'new' (Postgres -, Cosmos DB -)
"""


@pytest.fixture
def apart(settings: Settings, mappings: Mappings) -> None:
    """Cosmos DB is the primary: of three accounts one is gone, one has changed, and one is new."""

    async def build() -> None:
        async with open_cosmos(settings) as cosmos, open_engine(settings) as engine:
            await cosmos.provision(mappings)
            await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
            steps = Steps(engine, cosmos, mappings, ACCOUNTS)
            await mirrored(steps, "gone", "changed", "same")
            await hard_delete(steps, "gone")
            for id_ in ("changed", "new"):
                await cosmos.container(ACCOUNTS).upsert_item(legacy(id_, DisplayName="New"))

    asyncio.run(build())


def test_differences_are_named_tried_repaired_and_gone(run: Run, apart: None) -> None:
    code, output, errors = run("validate", "--entity", "Account", **QUICK)
    assert (code, sorted(output.splitlines())) == (1, sorted(NAMED.splitlines()))
    assert "documents of Accounts: " in errors

    code, output, errors = run("repair", "--entity", "Account", **QUICK)
    assert code == 0
    assert output.endswith("2 would be brought into step, 1 would be removed\n")
    assert "to do it: crossfeed repair --apply" in errors

    code, output, _ = run("repair", "--apply", "--json", **QUICK)
    done = json.loads(output)
    assert (code, done["applied"], done["written"], done["removed"], done["kept"]) == (0, True, 2, 1, {})
    assert done["parity"]["entities"]["Account"]["total"] == 3

    code, output, _ = run("validate", "--deep", "--json", **QUICK)
    found = json.loads(output)
    assert (code, found["equal"], found["deep"]) == (0, True, True)
    assert found["entities"]["Account"] == {
        "rows": 3,
        "documents": 3,
        "checked": 3,
        "total": 0,
        "accounted": 0,
        "busy": 0,
        "differences": [],
    }


def test_what_cannot_be_done_is_said_and_the_exit_code_tells(run: Run, apart: None, settings: Settings) -> None:
    assert run("validate", "--entity", "Acount", **QUICK)[0] == 2

    async def refused() -> None:
        async with open_cosmos(settings) as cosmos:
            await cosmos.container(ACCOUNTS).upsert_item({"id": "bad", "Email": {"no": "text"}})

    asyncio.run(refused())
    code, output, _ = run("repair", "--apply", **QUICK)
    assert code == 1
    assert "1 left as they are: it differs still: refused, or written meanwhile" in output
    code, output, _ = run("validate", "--limit", "0", **QUICK)
    assert (code, output.splitlines()[:2]) == (
        1,
        ["Account: 3 rows, 4 documents; 1 of them dead letters", "  … and 1 more"],
    )

    async def back() -> None:
        async with open_engine(settings) as engine:
            await make_primary(engine, Phase.COSMOS_ONLY)

    asyncio.run(back())
    code, _, errors = run("repair", "--apply", **QUICK)
    assert code == 1
    assert "neither store follows the other" in errors
