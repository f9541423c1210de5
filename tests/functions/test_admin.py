"""The HTTP functions and the timers: what an operator is told, and what is done without one."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from core.domain.events import AccountRegistered
from core.domain.mappings import ACCOUNTS
from core.events import EventMaker
from core.identity import Identity

if TYPE_CHECKING:
    from tests.functions.conftest import Installation
    from tests.integration.mirror_steps import Steps


def _broken(id_: str) -> dict[str, Any]:
    return {"id": id_, "Email": f"{id_}@example.com", "DisplayName": "nul \0"}


async def _sql(installation: Installation, statement: str) -> Any:
    async with installation.engine.begin() as connection:
        result = await connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else result.rowcount


async def _drain(installation: Installation, *containers: str) -> None:
    for container in containers or installation.mappings.containers:
        listeners = await installation.listeners(container)
        for listener in listeners:
            listener.lease.continuation = None  # from the beginning, as new leases do
        await asyncio.gather(*(listener.drain() for listener in listeners))


async def _put(installation: Installation, *documents: dict[str, Any]) -> None:
    listeners = await installation.listeners("Accounts")
    for document in documents:
        await installation.store.container(ACCOUNTS).upsert_item(document)
    await asyncio.gather(*(listener.drain() for listener in listeners))


async def test_health_follows_a_canary_through_every_feed_range(installation: Installation) -> None:
    await _sql(installation, "DELETE FROM crossfeed.canary")
    status, body = await installation.worker.request("health")
    assert (status, body["ready"]) == (503, False)
    assert "no canary was ever written to 'Accounts': its timer does not run" in body["problems"]

    assert await installation.worker.tick("canary") == {"status": 1}
    await _sql(installation, "UPDATE crossfeed.canary SET unseen_since = unseen_since - interval '1 hour'")
    status, body = await installation.worker.request("health")
    assert status == 503
    assert len([problem for problem in body["problems"] if "has not come out of its trigger" in problem]) == 4

    await _drain(installation)
    status, body = await installation.worker.request("health")
    assert (status, body) == (200, {"ready": True, "problems": []})

    await _sql(installation, "UPDATE crossfeed.canary SET at = at - interval '400 s'")
    status, body = await installation.worker.request("health")
    assert (status, body) == (200, {"ready": True, "problems": []}), "none is written while one is on its way"
    await _sql(installation, "UPDATE crossfeed.canary SET at = at - interval '1 hour'")
    status, body = await installation.worker.request("health")
    assert status == 503
    assert any("no canary was written to 'Accounts' for 40" in problem for problem in body["problems"])


async def test_a_range_that_stands_still_is_not_hidden_by_the_others(installation: Installation) -> None:
    await installation.worker.tick("canary")
    await _drain(installation)
    await installation.worker.tick("canary")
    first, *_ = await installation.listeners("Accounts")
    await first.drain()
    first.lease.continuation = None
    await first.drain()
    await _sql(installation, "UPDATE crossfeed.canary SET unseen_since = unseen_since - interval '1 hour'")
    _, body = await installation.worker.request("health")
    assert any("a change of 'Accounts' has not come out" in problem for problem in body["problems"])
    await _drain(installation)
    assert (await installation.worker.request("health"))[0] == 200


async def test_health_sees_triggers_of_postgres_that_are_against_the_phase(installation: Installation) -> None:
    await _sql(installation, "ALTER TABLE accounts DISABLE TRIGGER crossfeed_refuse")
    status, body = await installation.worker.request("health")
    await _sql(installation, "ALTER TABLE accounts ENABLE TRIGGER crossfeed_refuse")
    assert status == 503
    assert "trigger crossfeed_refuse of accounts is off or missing, against the phase" in body["problems"]


async def test_the_status_says_how_far_everything_is(installation: Installation) -> None:
    await _put(installation, {"id": "status", "Email": "status@example.com"}, _broken("status-broken"))
    code, status = await installation.worker.request("status")
    assert code == 200
    assert (status["phase"], status["epoch"], status["state"]) == ("dual_write_cosmos_read", 2, "steady")
    [progress] = [item for item in status["triggers"] if item["function"] == "mirror_Accounts"]
    assert progress["documents"] >= 2
    assert progress["age_s"] < 60
    assert status["dead_letters"]["to_postgres refused"] >= 1
    assert status["parked"] == 0


async def test_dead_letters_are_listed_replayed_and_discarded(installation: Installation, steps: Steps) -> None:
    await _put(installation, *(_broken(f"letter-{number}") for number in range(3)))
    request = installation.worker.request
    status, found = await request("dead_letters", query={"entity": "Account", "id": "letter-1", "code": "the key"})
    assert (status, found["count"]) == (200, 1)
    [letter] = found["letters"]
    assert (letter["kind"], letter["direction"], letter["id"]) == ("refused", "to_postgres", "letter-1")
    assert "document" not in letter

    body = {"numbers": [letter["number"], 10**9], "dry_run": True}
    _, report = await request("dead_letters_replay", "POST", body=body)
    missing = [{"number": 10**9, "why": "there is no such letter"}]
    assert report == {"dry_run": True, "done": [letter["number"]], "refused": missing}

    await installation.store.container(ACCOUNTS).upsert_item({"id": "letter-1", "Email": "cured@example.com"})
    _, report = await request("dead_letters_replay", "POST", body={"numbers": [letter["number"]]})
    assert report["done"] == [letter["number"]]
    assert (await steps.content("letter-1") or {})["Email"] == "cured@example.com"

    _, report = await request("dead_letters_discard", "POST", body={"id": "letter-2"})
    assert len(report["done"]) == 1
    _, found = await request("dead_letters", query={"reason": "NUL"})
    assert {item["id"] for item in found["letters"]} & {"letter-0", "letter-1", "letter-2"} == {"letter-0"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "name letters"),
        ({"identifier": "x"}, "identifier"),
        ({"direction": "sideways"}, "direction"),
        ({"since": "yesterday"}, "since"),
        ({"since": "P999999999D"}, "since"),
        ({"numbers": [2**63]}, "numbers"),
        ({"limit": 2**63, "all": True}, "limit"),
        ([1], "object"),
    ],
)
async def test_a_request_that_makes_no_sense_changes_nothing(installation: Installation, body: Any, said: str) -> None:
    status, answer = await installation.worker.request("dead_letters_discard", "POST", body=body)
    assert status == 400
    assert said in answer["error"]


async def test_events_come_to_their_consumers_once_although_they_come_twice(installation: Installation) -> None:
    maker = EventMaker(clock=lambda: 1_770_000_000.0, new_id=lambda: "registered-1")
    event = maker.envelope(
        AccountRegistered(email="ada@example.com", display_name="Ada"), Identity.of("Account", ["ada"], "ada")
    )
    listeners = await installation.listeners(installation.settings.events_container, "consume_events")
    await installation.store.container_named(installation.settings.events_container).upsert_item(
        {**event, "sequence": "1".zfill(20)}
    )
    for _ in range(2):
        for listener in listeners:
            listener.lease.continuation = None
            await listener.drain()
            assert listener.lost + listener.failed == []
    assert await _sql(installation, "SELECT greeting FROM welcomes WHERE account_id = 'ada'") == [("Welcome, Ada!",)]


async def test_an_event_whose_document_has_expired_is_handled_as_it_was_shown(installation: Installation) -> None:
    maker = EventMaker(clock=lambda: 1_770_000_000.0, new_id=lambda: "registered-2")
    event = maker.envelope(
        AccountRegistered(email="bo@example.com", display_name="Bo"), Identity.of("Account", ["bo"], "bo")
    )
    shown = {**event, "sequence": "2".zfill(20), "_ts": 1, "_lsn": 1, "_etag": "1", "_rid": "gone"}
    answer = await installation.worker.invoke("consume_events", "payload", {"json": json.dumps([shown])})
    assert answer["result"] == {"status": 1}
    assert await _sql(installation, "SELECT greeting FROM welcomes WHERE account_id = 'bo'") == [("Welcome, Bo!",)]


@pytest.mark.parametrize("timer", ["canary", "parked", "reconcile", "retention", "validate"])
async def test_every_timer_runs(installation: Installation, timer: str) -> None:
    assert await installation.worker.tick(timer) == {"status": 1}


async def test_retention_purges_what_is_past_its_time_and_nothing_else(installation: Installation) -> None:
    await _sql(
        installation,
        "INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version, at)"
        " SELECT 'Account', json_build_array(id)::text, id, 1, 1, now() - days * interval '1 day'"
        " FROM (VALUES ('old', 31), ('new', 0)) AS wanted(id, days)",
    )
    await _sql(
        installation,
        "INSERT INTO crossfeed.trigger_failure (function, batch, error, at) VALUES"
        " ('f', 'old', 'E', now() - interval '1 hour'), ('f', 'new', 'E', now())",
    )
    assert await installation.worker.tick("retention") == {"status": 1}
    left = await _sql(installation, "SELECT id FROM crossfeed.tombstone WHERE id IN ('old', 'new')")
    left += await _sql(installation, "SELECT batch FROM crossfeed.trigger_failure WHERE function = 'f'")
    await _sql(installation, "DELETE FROM crossfeed.trigger_failure")
    assert left == [("new",), ("new",)]
