"""What nobody would write arrives all the same: nothing of it may block a lease, or pass without a trace."""

from __future__ import annotations

import asyncio
import gc
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

from changefeed.mirror import Mirror
from changefeed.rewritten import Spelling
from core.cosmos.feed import feed_ranges, pages
from core.domain.events import AccountRegistered
from core.errors import StoreUnavailableError
from functions import runtime as runtime_module
from functions.chores import write_all_canaries
from functions.runtime import Runtime
from functions.trigger_batches import BatchFailedError, take
from functions.trigger_health import health_of
from functions.triggers import Feeds, Trigger
from tests.functions.conftest import CONSUMERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.content import Document
    from tests.functions.conftest import Installation
    from tests.integration.mirror_steps import Steps

_TRIGGER = Trigger("mirror_Accounts", "Accounts", "mirror-", Feeds.MIRROR)
_SYSTEM = {"_ts": 1, "_lsn": 5, "_etag": "e", "_rid": "r"}
_DATE = "2026-01-31T08:00:00.1200000Z"


@pytest.fixture
async def runtime(installation: Installation) -> AsyncIterator[Runtime]:
    """The handlers in this process."""
    changed = {"mappings": "core.domain.mappings:MAPPINGS", "consumers": CONSUMERS}
    found = Runtime(load=lambda: installation.settings.model_copy(update=changed))
    yield found
    await found.close()


async def _letters(installation: Installation, id_: str) -> list[tuple[str, str]]:
    async with installation.engine.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT kind, reason FROM crossfeed.dead_letter WHERE id = %(id)s", {"id": id_}
        )
        return [tuple(row) for row in rows]


_ODD = {
    "digits": '"Odd": ' + "9" * 5000,
    "infinite": '"Odd": 1e999',
    "nan": '"Odd": NaN',
    "slash/": f'"Odd": "{_DATE}"',
    "..": f'"Odd": "{_DATE}"',
    "surrogate\\ud800": f'"Odd": "{_DATE}"',
    "nul\\u0000": '"Odd": 1',
    "events": '"crossfeed": {"events": [1, {"id": [1]}, null]}',
}


@pytest.mark.parametrize("spelling", [Spelling.UNKNOWN, Spelling.UNALTERED])
async def test_an_odd_document_is_a_dead_letter_and_holds_up_nothing(
    installation: Installation, runtime: Runtime, steps: Steps, spelling: Spelling
) -> None:
    runtime.dates.spelling = spelling
    system = json.dumps(_SYSTEM)[1:]
    odd = ",".join(
        f'{{"id": "{id_}", "Email": "{n}@odd", {text}, {system}' for n, (id_, text) in enumerate(_ODD.items())
    )
    id_behind = f"behind-{spelling.value}"
    behind = {"id": id_behind, "Email": f"{spelling.value}@behind", **_SYSTEM, "_lsn": 6}
    await take(runtime, _TRIGGER, f"[{odd},{json.dumps(behind)}]", 0)
    assert await steps.content(id_behind) is not None
    for id_ in ("digits", "infinite", "nan", "slash/", "..", "surrogate\\ud800", "nul\\0", "events"):
        assert len(await _letters(installation, id_)) == 1, id_


async def test_an_odd_event_holds_up_nothing(installation: Installation, runtime: Runtime) -> None:
    name = json.dumps(str(AccountRegistered.event_name))
    odd = {
        "odd-digits": f'"sequence": "{"9" * 5000}"',
        "odd-infinite": '"sequence": "1", "data": 1e999',
        "odd/slash": f'"sequence": "2", "time": "{_DATE}"',
        "odd-\\ud800": f'"sequence": "3", "time": "{_DATE}"',
        "odd-list": '"sequence": [], "data": []',
    }
    trigger = Trigger("consume_events", installation.settings.events_container, "consumers-", Feeds.CONSUMERS)
    system = json.dumps(_SYSTEM)[1:]
    events = [f'{{"id": "{id_}", "type": {name}, "subject": "Account/{id_}", {odd[id_]}, {system}' for id_ in odd]
    await take(runtime, trigger, f"[{','.join(events)}]", 0)
    async with installation.engine.begin() as connection:
        found = await connection.exec_driver_sql(
            "SELECT count(*) FROM (SELECT FROM crossfeed.dead_letter WHERE kind = 'event' AND reference LIKE '%%:odd%%'"
            " UNION ALL SELECT FROM crossfeed.inbox_parked WHERE event_id LIKE 'odd%%') AS kept"
        )
        assert found.scalar_one() == len(odd)


@pytest.mark.parametrize("payload", ["", '{"id": "no array"}', "[1]", "[{]"])
async def test_a_payload_that_cannot_be_read_comes_again_and_health_says_so(
    installation: Installation, runtime: Runtime, payload: str
) -> None:
    for attempt in range(2):
        with pytest.raises(BatchFailedError):
            await take(runtime, replace(_TRIGGER, function="unread"), payload, attempt)
    async with installation.engine.begin() as connection:
        rows = await connection.exec_driver_sql(
            "DELETE FROM crossfeed.trigger_failure WHERE function = 'unread' RETURNING attempts"
        )
        assert rows.scalars().all() == [2]


async def test_a_payload_without_documents_is_done(runtime: Runtime) -> None:
    await take(runtime, _TRIGGER, "[]", 0)


async def test_an_item_without_a_current_state_is_a_delete_however_that_is_spelled(
    runtime: Runtime, steps: Steps
) -> None:
    for operation in ("Delete", "Deleted", None):
        document = {"id": "spelled", "Email": "spelled@example.com"}
        await steps.store.container_named("Accounts").upsert_item(document)
        shown = [item for item in await steps.watch() if item["id"] == "spelled"]
        await take(runtime, _TRIGGER, json.dumps(shown), 0)
        assert await steps.content("spelled") is not None
        await steps.store.container_named("Accounts").delete_item("spelled", partition_key="spelled")
        metadata = {"operationType": operation, "lsn": shown[-1]["_lsn"] + 1, "crts": shown[-1]["_ts"], "id": "spelled"}
        item = {"metadata": {**metadata, "partitionKey": {"id": "spelled"}}}
        await take(runtime, replace(_TRIGGER, feeds=Feeds.DELETES), json.dumps([item]), 0)
        assert await steps.content("spelled") is None


async def _canaries(installation: Installation) -> list[Document]:
    proxy = installation.store.container_named("Accounts")
    return [
        document
        for item in await feed_ranges(proxy)
        async for page in pages(proxy, item, None, 1000)
        for document in page.documents
        if document["id"].startswith("crossfeed-canary")
    ]


async def _unseen_s(runtime: Runtime) -> float:
    facts = (await health_of(runtime)).facts
    assert facts is not None
    return next(item.unseen_s for item in facts.triggers.canaries if item.container == "Accounts")


async def _forget(installation: Installation) -> None:
    async with installation.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM crossfeed.canary")


async def _age(installation: Installation) -> None:
    hour_ago = "unseen_since = unseen_since - interval '1 hour', at = at - interval '1 hour'"
    async with installation.engine.begin() as connection:
        await connection.exec_driver_sql(f"UPDATE crossfeed.canary SET {hour_ago}")


async def test_the_feed_of_deletes_does_not_hide_that_the_other_one_stands_still(
    installation: Installation, runtime: Runtime
) -> None:
    await _forget(installation)
    await write_all_canaries(runtime)
    await _age(installation)
    shown = await _canaries(installation)
    items = [
        {
            "current": {name: value for name, value in document.items() if name != "_lsn"},
            "metadata": {"operationType": "replace", "lsn": document["_lsn"], "crts": document["_ts"]},
        }
        for document in shown
    ]
    await take(runtime, replace(_TRIGGER, function="deletes_Accounts", feeds=Feeds.DELETES), json.dumps(items), 0)
    assert await _unseen_s(runtime) >= 3600
    await take(runtime, _TRIGGER, json.dumps(shown), 0)
    assert await _unseen_s(runtime) == 0


async def test_the_timer_leaves_a_canary_alone_that_may_be_on_its_way(
    installation: Installation, runtime: Runtime
) -> None:
    await _forget(installation)
    await write_all_canaries(runtime)
    before = await _canaries(installation)
    await write_all_canaries(runtime)
    assert await _canaries(installation) == before
    await take(runtime, _TRIGGER, json.dumps(before), 0)
    await write_all_canaries(runtime)
    after = await _canaries(installation)
    assert {item["_etag"] for item in after}.isdisjoint(item["_etag"] for item in before)
    await _age(installation)
    await write_all_canaries(runtime)
    lost = {item["_etag"] for item in after}
    assert lost.isdisjoint(item["_etag"] for item in await _canaries(installation)), "it must be lost"
    await take(runtime, _TRIGGER, json.dumps(await _canaries(installation)), 0)


async def test_a_feed_that_is_always_one_canary_late_is_not_taken_for_one_that_stands_still(
    installation: Installation, runtime: Runtime
) -> None:
    await _forget(installation)
    await write_all_canaries(runtime)
    before = await _canaries(installation)
    await _age(installation)
    await write_all_canaries(runtime)
    assert await _unseen_s(runtime) >= 3600
    await take(runtime, _TRIGGER, json.dumps(before), 0)
    assert 0 < await _unseen_s(runtime) < 60
    await _age(installation)
    await take(runtime, _TRIGGER, json.dumps([{**item, "_ts": 1} for item in before]), 0)
    assert await _unseen_s(runtime) < 60 + 3600, "an old one is no news"
    await take(runtime, _TRIGGER, json.dumps(await _canaries(installation)), 0)


async def test_batches_do_not_pay_for_what_is_parked_more_often_than_its_pace_allows(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bool] = []

    async def retry(*_: Any, **options: Any) -> bool:
        tried.append(options["eager"])
        runtime.parked.next_try = math.inf
        return False

    monkeypatch.setattr(Mirror, "retry_parked", retry)
    for number in range(3):
        document = {"id": f"paced-{number}", "Email": "paced@example.com", **_SYSTEM}
        await take(runtime, _TRIGGER, json.dumps([document]), 0)
    assert tried == [True]


async def test_nobody_waits_for_connections_longer_than_a_batch_has_time(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "OPEN_S", 0.05)

    async def never(_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(Runtime, "_open", never)
    for outcome in await asyncio.gather(*(take(runtime, _TRIGGER, "[]", 0) for _ in range(20)), return_exceptions=True):
        assert isinstance(outcome, StoreUnavailableError)


def test_event_loops_that_ended_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    async def opened(_: Runtime) -> Any:
        loops.add(loop := asyncio.get_running_loop())
        return SimpleNamespace(application=loop, users=0, is_suspect=False, used_at=0.0)  # as connections do

    async def once() -> None:
        async with found.application():
            pass

    monkeypatch.setattr(Runtime, "_open", opened)
    found = Runtime()
    for _ in range(5):
        asyncio.run(once())
    gc.collect()
    assert len(loops) == 1
