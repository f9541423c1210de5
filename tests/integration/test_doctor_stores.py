"""The doctor finds what only a store of the test's own can be made to do: clocks, refusals, silence, an odd cache.

The rest is in tests/e2e/test_doctor.py, through the command.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.cosmos.markers import Markers
from core.errors import CrossfeedError
from core.local.cosmos.faults import Match, Refuse, Rule
from core.local.cosmos.faults.rules import WRITES, Operation
from functions.doctor.asking import asked, quiet_stack
from functions.doctor.cache_questions import ask_cache
from functions.doctor.examination import _ask_each, examine
from functions.doctor.findings import Diagnosis, Examined, Finding, Status, answer
from functions.doctor.functions_questions import app_of, ask_functions
from functions.doctor.patient import Surroundings
from functions.doctor.settings_questions import ask_http, ask_mappings, ask_tls
from functions.triggers import APP_SETTINGS
from outbox.lineage import Lineage
from tests.functions.host import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.cosmos import CosmosServer
    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.settings import Settings


def of(diagnosis: Diagnosis, name: str) -> Examined:
    [found] = [one for one in diagnosis.answers if one.name == name]
    return found


def around(settings: Settings, environment: dict[str, str] | None = None, **changed: Any) -> Surroundings:
    app = changed.pop("app", None)
    return Surroundings(settings.model_copy(update=changed), {}, environment or {}, app)


@pytest.fixture
async def own(own_cosmos_server: CosmosServer, settings: Settings, mappings: Mappings) -> Settings:
    """Settings of an installation whose account is the test's own, its containers provisioned."""
    mine = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    async with open_cosmos(mine) as store:
        await store.provision(mappings)
    return mine


async def test_a_clock_that_is_ahead_is_found(own: Settings, own_cosmos_server: CosmosServer) -> None:
    own_cosmos_server.account.clock.advance(seconds=61)
    diagnosis = await examine(around(own))
    assert [one.name for one in diagnosis.answers if one.status is Status.PROBLEM] == ["clocks"]
    said = [finding.what for finding in of(diagnosis, "clocks").findings]
    assert [what.partition(" is ")[0] for what in said] == ["Cosmos DB", "Postgres against Cosmos DB"]
    assert "timedatectl set-ntp true" in of(diagnosis, "clocks").findings[0].run


async def test_an_identity_that_may_read_and_not_write_is_found(own: Settings, own_cosmos_server: CosmosServer) -> None:
    own_cosmos_server.faults.add(Rule(do=Refuse(status=403), on=Match(operations=WRITES, container="Accounts")))
    diagnosis = await examine(around(own))
    [finding] = of(diagnosis, "access").findings
    assert (finding.where, "may read, but not write (403)" in finding.what) == ("container Accounts", True)
    assert "az cosmosdb sql role assignment create" in finding.run


async def test_looking_whether_it_may_write_writes_nothing(own: Settings, mappings: Mappings) -> None:
    assert of(await examine(around(own)), "access").status is Status.OK
    async with open_cosmos(own) as store:
        for container in [*mappings.containers, store.own.events.name]:
            documents = store.container_named(container).query_items("SELECT * FROM c")
            assert [document async for document in documents] == []


async def test_a_database_that_was_restored_to_before_a_step_is_found(own: Settings, engine: AsyncEngine) -> None:
    async with open_cosmos(own) as store, engine.connect() as connection:
        await Lineage(store, own).check(connection, [])
        instance = (await connection.exec_driver_sql("SELECT instance::text FROM crossfeed.lineage")).scalar_one()
        await Markers(store, store.own.control.name, instance).raise_epoch(7)
    diagnosis = await examine(around(own))
    assert [one.name for one in diagnosis.answers if one.status is Status.PROBLEM] == ["history"]
    [finding] = of(diagnosis, "history").findings
    assert "epoch 7 was opened once" in finding.what
    assert "crossfeed outbox resync --dry-run" in finding.run


async def test_who_says_nothing_is_not_asked_again() -> None:
    async def silent(_: int) -> Examined:
        await asyncio.sleep(60)
        raise AssertionError

    answers: list[Examined] = []
    await _ask_each({"one": silent, "two": silent}, "there", 1, answers, timeout_s=0.01)
    assert [one.status for one in answers] == [Status.PROBLEM, Status.SKIPPED]


async def test_what_cannot_be_closed_is_let_go() -> None:
    async with quiet_stack() as stack:
        stack.callback(lambda: 1 / 0)


def test_a_module_that_ends_the_process_or_prints_is_only_a_finding(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rude_mappings.py").write_text("print('hunter2')\nraise SystemExit('hunter3')\n")
    monkeypatch.syspath_prepend(tmp_path)
    found: list[Mappings] = []
    answered = ask_mappings(around(settings, mappings="rude_mappings:MAPPINGS"), found)
    assert (answered.status, found) == (Status.PROBLEM, [])
    assert answered.findings[0].what == "importing what CROSSFEED_MAPPINGS names raised SystemExit"
    assert capsys.readouterr().out == ""


async def test_a_store_that_is_out_of_order_is_a_finding_and_the_others_are_asked(
    own: Settings, own_cosmos_server: CosmosServer
) -> None:
    own_cosmos_server.faults.add(Rule(do=Refuse(status=503), on=Match(operations=frozenset({Operation.READ_DATABASE}))))
    diagnosis = await examine(around(own))
    assert of(diagnosis, "cosmos").status is Status.PROBLEM
    assert of(diagnosis, "triggers").status is Status.OK
    assert of(diagnosis, "containers").status is Status.SKIPPED


async def test_whatever_goes_wrong_in_a_question_is_an_answer() -> None:
    async def silent() -> Examined:
        await asyncio.sleep(60)
        raise AssertionError

    async def failing(error: Exception) -> Examined:
        raise error

    answers = [
        await asked("one", "there", silent(), timeout_s=0.01),
        await asked("one", "there", failing(ZeroDivisionError("hunter2"))),
        await asked("one", "there", failing(CrossfeedError("it is away"))),
    ]
    assert [one.findings[0].what for one in answers] == [
        "no answer within 0 s",
        "the question itself failed: ZeroDivisionError",
        "it is away",
    ]
    assert all(one.status is Status.PROBLEM for one in answers)


async def test_a_cache_that_answers_is_no_finding(settings: Settings, valkey: EmbeddedValkey) -> None:
    found = await ask_cache(around(settings, cache_url=SecretStr(valkey.url)))
    assert (found.status, found.detail.startswith("Redis ")) == (Status.OK, True)


@pytest.mark.parametrize(
    ("url", "what", "cure"),
    [
        ("redis://127.0.0.1:9/0", "no Redis answers", "correct CROSSFEED_CACHE_URL"),
        ("http://127.0.0.1:9/0", "no address of a Redis server", "rediss://user:password@host"),
        ("redis://cache.example.com:6379/0", "unencrypted", "rediss://"),
    ],
)
async def test_a_cache_that_cannot_be_used_is_found(settings: Settings, url: str, what: str, cure: str) -> None:
    [finding] = (await ask_cache(around(settings, cache_url=SecretStr(url)))).findings
    assert what in finding.what
    assert cure in finding.run


async def test_a_cache_that_wants_another_password_or_says_nothing_is_found(
    settings: Settings, own_valkey: EmbeddedValkey
) -> None:
    host = own_valkey.url.rpartition("@")[2]
    [finding] = (await ask_cache(around(settings, cache_url=SecretStr(f"redis://:hunter2@{host}")))).findings
    assert finding.what == "Redis refuses the credentials"
    assert "hunter2" not in repr(finding)
    with own_valkey.frozen():
        question = asked(
            "cache", "there", ask_cache(around(settings, cache_url=SecretStr(own_valkey.url))), timeout_s=0.2
        )
        assert (await question).status is Status.PROBLEM


def test_a_functions_app_is_looked_at_where_there_is_one(settings: Settings, tmp_path: Path) -> None:
    assert app_of({}) is None
    assert ask_functions(around(settings)).status is Status.SKIPPED
    complete = {
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
        "COSMOS__accountEndpoint": "https://one.documents.azure.com:443/",
        **{f"CROSSFEED_{name.upper()}": str(getattr(settings, name)) for name in APP_SETTINGS},
    }
    assert app_of(complete) is not None
    assert ask_functions(around(settings, complete, app=ROOT)).findings == ()
    (tmp_path / "host.json").write_text(json.dumps({"version": "2.0", "retry": {"strategy": "fixedDelay"}}))
    broken = complete | {
        "CROSSFEED_CANARY_SCHEDULE": "every minute",
        "CROSSFEED_COSMOS_ENDPOINT": "https://two.documents.azure.com:443/",
        "FUNCTIONS_WORKER_RUNTIME": "node",
    }
    del broken["CROSSFEED_PARKED_SCHEDULE"], broken["AzureWebJobsStorage"]
    found = {one.what: one for one in ask_functions(around(settings, broken, app=tmp_path)).findings}
    assert found.keys() == {
        "no extension bundle 4",
        "dates are rewritten",
        "no functionTimeout",
        "a retry policy for all",
        "is no NCRONTAB expression",
        "is not python",
        "is not set",
        "they name two accounts",
    }
    assert all(one.run and one.where and one.why for one in found.values())
    [missing] = ask_functions(around(settings, complete, app=tmp_path / "nowhere")).findings
    assert "is missing" in missing.what
    example = json.loads((ROOT / "local.settings.example.json").read_text())
    (tmp_path / "local.settings.json").write_text(json.dumps(example))
    (tmp_path / "host.json").write_bytes((ROOT / "host.json").read_bytes())
    assert ask_functions(around(settings, {}, app=tmp_path)).findings == ()


def test_what_is_open_to_others_is_found(settings: Settings) -> None:
    assert ask_http(around(settings)).status is Status.SKIPPED
    assert ask_http(around(settings, http_port=1)).status is Status.OK
    public: dict[str, Any] = {"http_port": 1, "http_host": "0.0.0.0"}
    assert ask_http(around(settings, **public)).status is Status.OK
    acting = public | {"admin_token": SecretStr("x" * 16), "admin_on_public_address": True}
    [finding] = ask_http(around(settings, **acting)).findings
    assert "unset CROSSFEED_ADMIN_ON_PUBLIC_ADDRESS" in finding.run


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ("@127.0.0.1/db?sslmode=disable", Status.OK),
        ("@db.example.com/db", Status.OK),
        ("@db.example.com/db?sslmode=verify-full", Status.OK),
        ("@db.example.com/db?sslmode=require", Status.WARNING),
        ("@db.example.com/db?sslmode=prefer", Status.PROBLEM),
        ("@127.0.0.1,db.example.com/db?sslmode=disable", Status.PROBLEM),
    ],
)
def test_what_goes_over_a_network_unencrypted_is_found(settings: Settings, parameters: str, status: Status) -> None:
    found = ask_tls(around(settings, postgres_dsn=SecretStr(f"postgresql://me:hunter2{parameters}")))
    assert found.status is status
    assert "hunter2" not in repr(found)


def test_hosts_that_may_be_spoken_to_without_tls_are_named(settings: Settings) -> None:
    [finding] = ask_tls(around(settings, plaintext_hosts="cosmos, localhost")).findings
    assert "go to cosmos unencrypted" in finding.what


def test_the_worst_of_an_answer_counts() -> None:
    bad = Finding("what", "where", "why", "run")
    assert answer("one", [], "fine").status is Status.OK
    assert answer("one", [bad], "fine").status is Status.PROBLEM
    assert not Diagnosis((answer("one", [], "fine"), answer("two", [bad], ""))).is_healthy
