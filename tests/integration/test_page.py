"""The status page: what it shows, that it comes at once, and that whatever is shown is text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from core.phases import Phase
from core.postgres.switching import begin_switch
from tests.integration.page_steps import HOSTILE, TOKEN, form_of, furnish, serving_page
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

ADMIN = SecretStr(TOKEN)


def text_of(page: str) -> str:
    """What a reader sees, roughly."""
    body = page.partition("<main>")[2].partition("</main>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


async def test_a_furnished_installation_is_shown_with_all_its_parts(settings: Settings, engine: AsyncEngine) -> None:
    await furnish(engine)
    async with serving_page(settings, engine) as site:
        status, page, headers = await site.get()
        shown = text_of(page)
        assert status == 200
        assert "Everything flows; 1 thing to look at" in shown
        assert "<title>Everything flows; 1 thing to look at · dual_write_postgres_read</title>" in page
        for part in (
            "3 dead letters wait for a decision crossfeed dead-letters list",
            "37 in the outbox",
            "relay-1:7 relay 16 of 32 slots: 8 for events and 8 for states",
            "mirror-1:7 mirror mirror/Accounts 2 of 2, mirror/GameSessions 1 of 1",
            "32 canaries end to end: the slowest took 0.5 s; slot 31 was last seen",
            "Account bad/id",
            "Cosmos DB does not take the id: it holds a slash",
            "GameSession 2,048,113 2,048,113 none (1 dead letter) contents 5 h ago",
            "Writers waited 0.4 s",
            "opened by dana@ops: planned, change 4711",
            "Forwards to postgres_only : see what it takes crossfeed phase plan advance then crossfeed phase advance",
            "Back to dual_write_cosmos_read",
        ):
            assert part in shown, part
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert (await site.get("/status"))[0] == 200
        assert (await site.get("/livez"))[0] == 200


async def test_scripts_read_the_same_as_json(settings: Settings, engine: AsyncEngine) -> None:
    await furnish(engine)
    async with serving_page(settings, engine) as site:
        facts = await site.json()
    assert (facts["ok"], facts["phase"], facts["epoch"], facts["primary"]) == (
        True,
        "dual_write_postgres_read",
        2,
        "postgres",
    )
    assert [problem["severity"] for problem in facts["problems"]] == ["look"]
    assert facts["dead_letters"]["count"] == 3
    assert {one["number"]: one["obstacle"] is None for one in facts["dead_letters"]["letters"]} == {
        1: True,
        2: True,
        3: False,
    }
    assert "document" not in str(facts["dead_letters"])
    series = facts["directions"]["to_cosmos"]
    assert series["active"]
    assert len(series["lag_s"]) == len(series["per_s"]) == 60
    assert max(filter(None, series["lag_s"])) == 45.5
    assert None in series["per_s"]
    assert 0.0 in series["per_s"]


async def test_whatever_a_reason_an_id_or_a_name_holds_is_shown_as_text(
    settings: Settings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    async with engine.begin() as connection:
        for column in ("kind", "entity", "partition_key", "id", "reference", "reason"):
            values = dict.fromkeys(("kind", "entity", "partition_key", "id", "reference", "reason"), "x")
            await connection.exec_driver_sql(
                "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reference, reason)"
                " VALUES ('to_cosmos', %(kind)s, %(entity)s, %(partition_key)s, %(id)s, %(reference)s, %(reason)s)",
                {**values, column: HOSTILE},
            )
        hostile = {"it": HOSTILE}
        await connection.exec_driver_sql("UPDATE crossfeed.phase_history SET by_whom = %(it)s, why = %(it)s", hostile)
        await connection.exec_driver_sql(
            "INSERT INTO crossfeed.relay (relay, name, expires_at)"
            " VALUES (gen_random_uuid(), %(it)s, now() + interval '5 s')",
            hostile,
        )
    async with serving_page(settings, engine, admin_token=ADMIN) as site:
        site.page.who = HOSTILE
        site.readiness.problems = (HOSTILE,)
        _, page, _ = await site.get()
        _, answer, _ = await site.post(form_of(page, HOSTILE, 1, token=HOSTILE))
    for made in (page, answer):
        assert HOSTILE not in made
        assert "<img" not in made
        assert made.count("<script>") == 1
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 8


async def test_what_is_broken_comes_first_with_what_to_run(settings: Settings, engine: AsyncEngine) -> None:
    await furnish(engine)
    await run(
        engine,
        "DELETE FROM crossfeed.relay WHERE name = 'relay-2:7'",
        "UPDATE crossfeed.outbox SET at = at - interval '7 min'",
        "ALTER TABLE accounts DISABLE TRIGGER crossfeed_capture_update",
        "UPDATE crossfeed.parity SET differences = 4 WHERE entity = 'GameSession'",
    )
    async with serving_page(settings, engine) as site:
        _, page, _ = await site.get()
        facts = await site.json()
        assert (facts["ok"], len(facts["problems"])) == (False, 5)
        assert [problem["what"] for problem in facts["problems"]][:3] == [
            "trigger crossfeed_capture_update of accounts is off or missing, against the phase",
            "16 of 32 slots have no relay",
            "the oldest change for Cosmos DB has waited 7 min",
        ]
        assert facts["problems"][4]["what"] == "the last comparison found differences: 3 of GameSession"
        assert all(problem["cure"].startswith("crossfeed ") for problem in facts["problems"])
        assert "3 things are broken" in text_of(page)
        assert 'class="flow to_cosmos late"' in page
        site.readiness.problems = ("the relay holds no valid lease",)
        assert "relay relay-1:7: the relay holds no valid lease" in text_of((await site.get())[1])


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (None, "All is well; nothing crosses in this phase"),
        (Phase.DUAL_WRITE_COSMOS_READ, "neither a mirror nor a Functions app runs: nothing gets to Postgres"),
        (Phase.DUAL_WRITE_POSTGRES_READ, "no relay runs: nothing gets to Cosmos DB"),
        (Phase.POSTGRES_ONLY, "no relay runs: nothing gets to Cosmos DB"),
    ],
)
async def test_each_phase_wants_its_own_carrier(
    settings: Settings, engine: AsyncEngine, phase: Phase | None, said: str
) -> None:
    if phase is not None:
        await make_primary(engine, phase)
    async with serving_page(settings, engine) as site:
        _, page, _ = await site.get()
    assert said in text_of(page)
    assert f"opened by {'postgres: migrated' if phase is None else 'test: test'}" in text_of(page)


async def test_a_functions_app_that_has_fallen_silent_does_not_count_as_a_carrier(
    settings: Settings, engine: AsyncEngine
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    await run(
        engine,
        "INSERT INTO crossfeed.trigger_progress (function, container, batches, documents, newest_ts)"
        " VALUES ('mirror_Accounts', 'Accounts', 3, 40, 1)",
        "INSERT INTO crossfeed.sample (source, direction, lag_s, total) VALUES ('functions', 'to_postgres', 0.5, 40)",
    )
    async with serving_page(settings, engine) as site:
        _, page, _ = await site.get()
        assert "Everything flows" in page
        assert "mirror_Accounts trigger Accounts, 40 carried, the last" in text_of(page)
        await run(engine, "UPDATE crossfeed.sample SET at = at - interval '6 min'")
        assert "neither a mirror nor a Functions app runs" in (await site.get())[1]


async def test_an_id_of_any_length_is_shown_by_its_beginning(settings: Settings, engine: AsyncEngine) -> None:
    await run(
        engine,
        "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason) VALUES"
        " ('to_cosmos', 'refused', 'Account', repeat('k', 100000), repeat('i', 100000), repeat('r', 100000))",
    )
    async with serving_page(settings, engine) as site:
        _, page, _ = await site.get()
        assert len(page) < 40_000
        assert "i" * 500 + "…" in page
        assert len(json.dumps(await site.json())) < 10_000


async def test_a_switch_that_drains_is_shown_with_what_ends_it(settings: Settings, engine: AsyncEngine) -> None:
    await make_primary(engine)
    await begin_switch(engine, Phase.DUAL_WRITE_COSMOS_READ, who="somebody", why="a test")
    async with serving_page(settings, engine) as site:
        shown = text_of((await site.get())[1])
    assert "writers are refused since" in shown
    assert "writes wait: a switch drains" in shown
    assert "crossfeed phase resume crossfeed phase cancel" in shown
    assert "Forwards to" not in shown


async def test_while_postgres_is_away_the_page_says_so_at_once_and_shows_what_was_read_last(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(engine)
    async with serving_page(settings, engine) as site:
        await site.get()
        async with engine.begin() as holder:
            monkeypatch.setattr("functions.probing.TIMEOUT_S", 0.2)
            await holder.exec_driver_sql("LOCK TABLE crossfeed.phase IN ACCESS EXCLUSIVE MODE")
            status, page, _ = await site.get()
            assert (status, (await site.get("/status.json"))[0]) == (503, 503)
            assert "1 thing is broken Postgres does not answer within 0 s crossfeed doctor" in text_of(page)
            assert "Below is what was read last, at" in text_of(page)
            assert "37 in the outbox" in text_of(page)
        monkeypatch.undo()
        assert (await site.get())[0] == 200
