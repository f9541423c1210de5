"""Batches through the worker: what must arrive does, whatever fails, and nothing arrives twice or is lost."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from core.cosmos.feed import pages
from core.domain.mappings import ACCOUNTS
from tests.functions.conftest import environment_of
from tests.functions.host import Worker, WorkerDiedError
from tests.integration.mirror_steps import same

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from tests.functions.conftest import Installation
    from tests.functions.host import Lease, Listener
    from tests.integration.mirror_steps import Steps

_WAITING = """
    SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'crossfeed.trigger_progress'::regclass
"""


def _account(id_: str, **properties: Any) -> Document:
    """Return an account as the legacy application stores one."""
    return {
        "id": id_,
        "Email": f"{id_}@example.com",
        "DisplayName": "Ada",
        "CreatedAt": "2026-01-31T08:00:00.1234500Z",
        "Discriminator": "Account",
        **properties,
    }


async def _write(installation: Installation, *documents: Document) -> None:
    container = installation.store.container(ACCOUNTS)
    await asyncio.gather(*(container.upsert_item(dict(document)) for document in documents))


async def _drain(installation: Installation, *documents: Document) -> None:
    """Write documents, and let the triggers take them."""
    listeners = await installation.listeners("Accounts")
    await _write(installation, *documents)
    await asyncio.gather(*(listener.drain() for listener in listeners))
    assert [listener.lost for listener in listeners] == [[], []]


async def _letters(installation: Installation, prefix: str) -> dict[str, str]:
    async with installation.engine.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT id, kind FROM crossfeed.dead_letter WHERE starts_with(id, %(prefix)s)", {"prefix": prefix}
        )
        return dict(map(tuple, rows))


@asynccontextmanager
async def _stopped_before_acknowledging(installation: Installation) -> AsyncIterator[AsyncConnection]:
    """Let every batch stop when all of its documents are written and it has only to say so."""
    async with installation.engine.begin() as connection:
        await connection.exec_driver_sql("LOCK TABLE crossfeed.trigger_progress IN ACCESS EXCLUSIVE MODE")
        yield connection


async def _until_waiting(connection: AsyncConnection, count: int) -> None:
    while (await connection.exec_driver_sql(_WAITING)).scalar_one() < count:  # noqa: ASYNC110 - Postgres tells nobody
        await asyncio.sleep(0.01)


async def test_what_is_written_arrives_with_all_that_it_holds(installation: Installation, steps: Steps) -> None:
    document = _account("plain", LegacyFlag={"a": [1, 2.5, None]})
    await _drain(installation, document)
    assert same(await steps.content("plain"), document)
    await _drain(installation, {**document, "DisplayName": "Grace"})
    assert same(await steps.content("plain"), {**document, "DisplayName": "Grace"})


async def test_a_poisonous_document_becomes_a_dead_letter_and_the_rest_arrives(
    installation: Installation, steps: Steps
) -> None:
    documents = [_account(f"poison-{number}") for number in range(20)]
    documents[7]["Nickname"] = "nul \0"
    documents[13]["CreatedAt"] = "the day before yesterday"
    await _drain(installation, *documents)
    assert await _letters(installation, "poison-") == {f"poison-{n}": "refused" for n in (7, 13)}
    for number, document in enumerate(documents):
        arrived = await steps.content(f"poison-{number}")
        assert arrived is None if number in {7, 13} else same(arrived, document)


async def test_a_failure_of_the_store_is_retried_until_it_is_over_and_shown_meanwhile(
    installation: Installation, steps: Steps
) -> None:
    await _drain(installation, _account("before"))  # the worker has its connections
    listeners = await installation.listeners("Accounts")
    await _write(installation, _account("patient"))
    async with installation.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE accounts RENAME TO accounts_hidden")
    delivering = asyncio.gather(*(listener.drain() for listener in listeners))
    busy = await _failing(listeners, 5, delivering)
    async with installation.engine.begin() as connection:
        [[attempts]] = await connection.exec_driver_sql("SELECT max(attempts) FROM crossfeed.trigger_failure")
        assert attempts >= 4
        await connection.exec_driver_sql("UPDATE crossfeed.trigger_failure SET since = since - interval '1 hour'")
    status, body = await installation.worker.request("health")
    assert status == 503
    assert any("mirror_Accounts has failed at one batch for 36" in problem for problem in body["problems"])
    async with installation.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE accounts_hidden RENAME TO accounts")
    await delivering
    assert busy.lost == []
    assert await steps.content("patient") is not None
    async with installation.engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.trigger_failure")).scalar_one() == 0


async def _failing(listeners: list[Listener], attempts: int, delivering: asyncio.Future[Any]) -> Listener:
    """Wait until a batch has failed so often."""
    while True:
        assert not delivering.done()
        for listener in listeners:
            assert listener.lost == []
            if len(listener.failed) >= attempts:
                return listener
        await asyncio.sleep(0.01)


async def test_a_worker_that_is_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    installation: Installation, steps: Steps
) -> None:
    documents = [_account(f"killed-{number}") for number in range(10)]
    listeners = await installation.listeners("Accounts")
    await _write(installation, *documents)
    async with _stopped_before_acknowledging(installation) as connection:
        delivering = asyncio.gather(*(listener.drain() for listener in listeners), return_exceptions=True)
        await _until_waiting(connection, 2)
        await installation.worker.stop(kill=True)
        assert [type(outcome) for outcome in await delivering] == [WorkerDiedError] * 2
        assert await steps.content("killed-0") is None, "nothing of the batch is there"
    installation.worker = await Worker.start(environment_of(installation.settings), installation.deployed)
    for listener in listeners:
        listener.worker = installation.worker
    await asyncio.gather(*(listener.drain() for listener in listeners))
    for document in documents:
        assert same(await steps.content(document["id"]), document)
        assert (await steps.held(document["id"])).stamp == (2, 1), "written once"
    assert await _letters(installation, "killed-") == {}


async def test_two_leases_of_a_function_run_beside_each_other(installation: Installation, steps: Steps) -> None:
    documents = [_account(f"beside-{number}") for number in range(30)]
    listeners = await installation.listeners("Accounts")
    assert len(listeners) == 2
    await _write(installation, *documents)
    async with _stopped_before_acknowledging(installation) as connection:
        delivering = asyncio.gather(*(listener.drain() for listener in listeners))
        await _until_waiting(connection, 2)
    assert await delivering == [1, 1]
    for document in documents:
        assert same(await steps.content(document["id"]), document)


async def test_a_batch_of_ten_megabytes_arrives(installation: Installation, steps: Steps) -> None:
    documents = [_account(f"large-{number}", Story="once upon a time " * 30_000) for number in range(20)]
    shown: list[Document] = []
    leases = await installation.leases("Accounts")
    await _write(installation, *documents)
    for lease in leases:
        shown += await _read(lease)
    payload = json.dumps(shown)
    assert len(payload) > 10_000_000
    answer = await installation.worker.invoke("mirror_Accounts", "payload", {"json": payload})
    assert answer["result"] == {"status": 1}
    assert same(await steps.content("large-19"), documents[19])


async def _read(lease: Lease) -> list[Document]:
    source = pages(lease.container, lease.feed_range, lease.continuation, 100)
    return [document async for page in source for document in page.documents]
