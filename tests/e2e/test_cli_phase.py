"""The verbs of the phase: what they print, what refuses them, and how a switch that was left is ended."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from core.errors import ConflictError
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.postgres.switching import begin_switch
from functions.phase_way import Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.settings import Settings
    from tests.e2e.conftest import Run

    Ask = Callable[..., tuple[int, dict[str, Any]]]

AWAY = {"cosmos_endpoint": "http://127.0.0.1:9/"}


@pytest.fixture
def ask(run: Run) -> Ask:
    """Run a verb with --json; return exit code and what was printed."""

    def ask(*arguments: str, **changed: str | None) -> tuple[int, dict[str, Any]]:
        code, output, errors = run("phase", *arguments, "--json", **changed)
        assert output.count("\n") == 1, errors
        return code, json.loads(output)

    return ask


def in_database(settings: Settings, *, switch: bool) -> None:
    """Be in phase 1, and leave a switch to phase 2 in the middle, as if its process had been killed."""

    async def prepare() -> None:
        async with open_engine(settings) as engine:
            await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
            if switch:
                await begin_switch(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="ada", why="we move")

    asyncio.run(prepare())


def test_a_way_ends_at_the_last_phase() -> None:
    assert [Way.ADVANCE.of(phase) for phase in list(Phase)[:-1]] == list(Phase)[1:]
    assert [Way.BACK.of(phase) for phase in list(Phase)[1:]] == list(Phase)[:-1]
    with pytest.raises(ConflictError, match="postgres_only is the last phase"):
        Way.ADVANCE.of(Phase.POSTGRES_ONLY)


@pytest.mark.usefixtures("cosmos")
def test_a_step_is_planned_refused_and_made_and_stands_in_the_history(ask: Ask, run: Run) -> None:
    assert run("phase", "status")[:2] == (0, "phase=cosmos_only epoch=1 state=steady primary=cosmos\n")
    code, plan = ask("plan")
    assert (code, plan["is_possible"], plan["to_phase"]) == (1, False, "dual_write_cosmos_read")
    assert [check["name"] for check in plan["checks"] if not check["ok"]] == ["writers"]
    code, report = ask("advance")
    assert (code, report["outcome"]) == (1, "refused")
    [refused] = [check for check in report["checks"] if not check["ok"]]
    assert "--writers-restarted" in refused["cure"]

    code, plan = ask("advance", "--dry-run", "--writers-restarted")
    assert (code, plan["is_possible"]) == (0, True)
    assert ask("status")[1]["epoch"] == 1  # nothing was changed
    code, report = ask("advance", "--writers-restarted", "--why", "we begin")
    assert (code, report["outcome"], report["pause_ms"]) == (0, "done", None)
    code, found = ask("status")
    assert (found["phase"], found["epoch"], found["state"]) == ("dual_write_cosmos_read", 2, "steady")
    assert (found["switch"], found["writers"], found["problems"]) == (None, [], [])
    _, history = ask("history", "--limit", "1")
    assert [(step["phase"], step["epoch"], step["why"]) for step in history["steps"]] == [
        ("dual_write_cosmos_read", 2, "we begin")
    ]


@pytest.mark.usefixtures("cosmos")
def test_what_refuses_is_printed_with_its_cure(run: Run, settings: Settings) -> None:
    in_database(settings, switch=False)
    code, output, _ = run("phase", "advance")
    assert code == 1
    assert "  REFUSES mirror: nobody reads the feed of 'Accounts'" in output
    assert "          cure: start: crossfeed mirror, or the Functions app" in output
    assert output.splitlines()[-1] == "dual_write_cosmos_read to dual_write_postgres_read: refused, epoch 2"
    code, output, _ = run("phase", "plan", "back")
    assert (code, output.splitlines()[0]) == (0, "dual_write_cosmos_read to cosmos_only:")
    assert output.splitlines()[-1] == "nothing refuses it"


def test_a_switch_that_was_left_is_said_and_is_cancelled_while_cosmos_is_away(
    ask: Ask, run: Run, settings: Settings
) -> None:
    in_database(settings, switch=True)
    code, output, _ = run("phase", "status", **AWAY)
    assert code == 0
    assert "state=draining" in output
    assert "by ada: we move" in output
    assert "PROBLEM: writers are refused since" in output
    assert "crossfeed phase resume, or crossfeed phase cancel" in output
    code, _, errors = run("phase", "resume", **AWAY)
    assert (code, "no Cosmos DB answers" in errors) == (2, True)

    code, report = ask("cancel", "--why", "it took too long", **AWAY)
    assert (code, report["outcome"], report["why"]) == (0, "cancelled", "it took too long")
    found = ask("status")[1]
    assert (found["phase"], found["epoch"], found["state"]) == ("dual_write_cosmos_read", 2, "steady")
    assert (found["switch"], found["problems"]) == (None, [])
    newest = ask("history")[1]["steps"][0]
    assert (newest["switch"]["step"], newest["switch"]["to"]) == ("cancelled", "dual_write_postgres_read")
    assert "(switch from dual_write_cosmos_read to dual_write_postgres_read: cancelled" in run("phase", "history")[1]
    code, _, errors = run("phase", "cancel")
    assert (code, "no switch is under way" in errors) == (1, True)


@pytest.mark.usefixtures("cosmos")
def test_a_step_beside_a_pending_switch_is_refused(ask: Ask, settings: Settings) -> None:
    in_database(settings, switch=True)
    code, report = ask("back")
    assert (code, report["outcome"]) == (1, "refused")
    assert [check["name"] for check in report["checks"] if not check["ok"]] == ["pending switch"]


@pytest.mark.parametrize("wrong", [["--timeout", "0"], ["--accept-dead-letters", "-1"], ["--settle", "-1"]])
def test_options_that_make_no_sense_are_refused(run: Run, wrong: list[str]) -> None:
    assert run("phase", "back", *wrong)[0] == 2
