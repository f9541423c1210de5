"""The phase over HTTP: the steps, checks and reports of the command, and what it answers to what cannot be done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import azure.functions as func
import pytest

from core.cosmos.containers import create_containers
from core.phases import Phase
from core.postgres.switch_record import pending_switch
from core.postgres.switching import begin_switch, cancel_switch
from functions import admin_phase
from functions.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.cosmos.client import CosmosStore
    from core.settings import Settings
    from tests.functions.conftest import Installation


async def test_the_standing_is_told_and_a_switch_that_was_left_is_no_health(installation: Installation) -> None:
    request = installation.worker.request
    status, found = await request("phase")
    assert (status, found["phase"], found["switch"]) == (200, "dual_write_cosmos_read", None)
    switch = await begin_switch(installation.engine, Phase.DUAL_WRITE_POSTGRES_READ, who="ada", why="we move")
    try:
        status, found = await request("phase")
        assert (status, found["state"], found["switch"]["who"]) == (200, "draining", "ada")
        status, health = await request("health")
        assert status == 503
        assert any("writers are refused since" in problem for problem in health["problems"])
        assert (await request("status"))[1]["switch"]["switch"] == str(switch.id)
        status, report = await request("phase_cancel", "POST", body={"who": "bo", "why": "no"})
        assert (status, report["outcome"], report["switch"]) == (200, "cancelled", str(switch.id))
    finally:
        async with installation.engine.connect() as connection:
            left = await pending_switch(connection)
        if left is not None:
            await cancel_switch(installation.engine, left.id, why="the test has failed")
    status, found = await request("phase_cancel", "POST")
    assert (status, found) == (409, {"error": "no switch is under way"})


async def test_what_refuses_a_step_is_the_answer(installation: Installation) -> None:
    request = installation.worker.request
    status, plan = await request("phase_plan", "POST", body={"foreign_quiet_s": 0})
    assert (status, plan["is_possible"], plan["to_phase"]) == (409, False, "dual_write_postgres_read")
    refused = {check["name"]: check["cure"] for check in plan["checks"] if not check["ok"]}
    assert refused["relay"] == "start: crossfeed relay"
    status, report = await request("phase_advance", "POST", body={"foreign_quiet_s": 0})
    assert (status, report["outcome"]) == (409, "refused")
    for function in ("phase_advance", "phase_plan"):  # sent once more, after the answer was lost
        status, answer = await request(function, "POST", body={"from": "cosmos_only"})
        assert (status, answer) == (
            409,
            {"error": "the phase is dual_write_cosmos_read, not the one that is to be left"},
        )
    status, history = await request("phase_history", query={"limit": "1", "code": "the key"})
    assert (status, len(history["steps"])) == (200, 1)


@pytest.mark.parametrize(
    ("function", "body", "said"),
    [
        ("phase_plan", {"way": "sideways"}, "way"),
        ("phase_advance", {"timeout_s": 0}, "timeout_s"),
        ("phase_advance", {"writers_restarted": "perhaps"}, "writers_restarted"),
        ("phase_back", {"accept_dead_letters": -1}, "accept_dead_letters"),
        ("phase_cancel", {"timeout_s": 1}, "timeout_s"),
        ("phase_resume", [1], "object"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    installation: Installation, function: str, body: Any, said: str
) -> None:
    status, answer = await installation.worker.request(function, "POST", body=body)
    assert status == 400
    assert said in answer["error"]


@pytest.fixture
async def runtime(settings: Settings, cosmos: CosmosStore) -> AsyncIterator[Runtime]:
    """The connections of this process to an installation in phase 0."""
    database = cosmos.client.get_database_client(settings.cosmos_database)
    await create_containers(database, [], [cosmos.own.leases], None)
    opened = Runtime(load=lambda: settings)
    yield opened
    await opened.close()


async def test_steps_are_made_each_way(runtime: Runtime) -> None:
    functions = {
        builder._function.get_function_name(): builder._function.get_user_function()
        for builder in admin_phase.blueprint(runtime)._function_builders
    }

    async def post(name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        request = func.HttpRequest("POST", f"https://app.example/api/{name}", body=json.dumps(body).encode())
        answer = await functions[name](request)
        return answer.status_code, json.loads(answer.get_body())

    status, plan = await post("phase_advance", {"writers_restarted": True, "dry_run": True})
    assert (status, plan["is_possible"]) == (200, True)
    status, report = await post("phase_advance", {"writers_restarted": True, "who": "ada", "why": "we begin"})
    assert (status, report["outcome"], report["to_phase"]) == (200, "done", "dual_write_cosmos_read")
    assert (report["who"], report["why"]) == ("ada", "we begin")
    status, report = await post("phase_back", {})
    assert (status, report["outcome"], report["to_phase"]) == (200, "done", "cosmos_only")
    status, answer = await post("phase_back", {})
    assert (status, answer) == (409, {"error": "cosmos_only is the first phase: there is no step back"})
