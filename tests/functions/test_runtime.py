"""The connections of a worker, and the handlers in this process: replicas that lag, stores that go, a second loop."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from changefeed.rewritten import Spelling
from core.cosmos.client import open_cosmos
from core.cosmos.containers import create_containers
from core.domain.mappings import ACCOUNTS
from core.errors import ConfigurationError, StoreUnavailableError
from core.local.cosmos import EMULATOR_KEY
from core.local.cosmos.faults import ByVersions, Lag, Match, Operation, Rule
from core.phases import Phase
from core.postgres.phases import open_phase
from core.postgres.rights import Process, rights_of
from functions.admin_requests import LettersToAct, act_on_letters
from functions.chores import CHORES
from functions.letters import Act
from functions.runtime import Runtime
from functions.trigger_batches import BatchFailedError, take
from functions.trigger_health import health_of
from functions.triggers import Feeds, Trigger
from tests.functions.newtonsoft import respelled
from tests.integration.mirror_steps import Steps, same

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings

_LETTER = """
    INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason)
    VALUES ('to_cosmos', 'refused', 'Account', '["a"]', 'a', 'none')
"""
_TRIGGER = Trigger("mirror_Accounts", "Accounts", "mirror-", Feeds.MIRROR)


@pytest.fixture
async def writer(
    settings: Settings, mappings: Mappings, own_cosmos_server: CosmosServer, engine: AsyncEngine
) -> AsyncIterator[CosmosStore]:
    """Somebody else's client; the runtime's has seen nothing of what it writes."""
    own_cosmos_server.faults.add(Rule(do=Lag(), on=Match(database="of nobody")))  # it remembers its past
    async with open_cosmos(_away(settings, own_cosmos_server.endpoint)) as store:
        await store.provision(mappings)
        await create_containers(store.client.get_database_client(store.database), [], [store.own.leases], None)
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="tests", why="triggers")
        yield store


def _away(settings: Settings, endpoint: str) -> Settings:
    return settings.model_copy(
        update={"cosmos_endpoint": endpoint, "cosmos_key": SecretStr(EMULATOR_KEY), "functions_pool_size": 2}
    )


@pytest.fixture
async def runtime(settings: Settings, writer: CosmosStore) -> AsyncIterator[Runtime]:
    found = Runtime(load=lambda: _away(settings, writer.endpoint))
    yield found
    await found.close()


@pytest.fixture
def steps(engine: AsyncEngine, writer: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, writer, mappings, ACCOUNTS)


def _account(id_: str, **properties: Any) -> Document:
    return {"id": id_, "Email": f"{id_}@example.com", "CreatedAt": "2026-01-31T08:00:00.1200000Z", **properties}


@contextmanager
def _replica_behind(server: CosmosServer, *operations: Operation) -> Iterator[None]:
    rule = Rule(do=Lag(behind=ByVersions(least=1, most=1)), on=Match(operations=frozenset(operations)), name="behind")
    server.faults.add(rule)
    yield
    server.faults.remove("behind")


@pytest.mark.parametrize("id_", ["plain", "2026-01-31T08:00:00.50"])
async def test_a_replica_that_is_behind_makes_a_batch_wait_and_loses_no_change(
    own_cosmos_server: CosmosServer, runtime: Runtime, writer: CosmosStore, steps: Steps, id_: str
) -> None:
    for name in ("Ada", "Grace"):
        await writer.container(ACCOUNTS).upsert_item(_account(id_, DisplayName=name))
        payload = json.dumps([respelled(document) for document in await steps.watch()])
        with (
            _replica_behind(own_cosmos_server, Operation.READ, Operation.QUERY),
            pytest.raises(StoreUnavailableError),
        ):
            await take(runtime, _TRIGGER, payload, 0)
        assert (await steps.content(id_) or {}).get("DisplayName") != name
        await take(runtime, _TRIGGER, payload, 1)
        assert same(await steps.content(id_), _account(id_, DisplayName=name))


@pytest.mark.parametrize("feeds", [Feeds.MIRROR, Feeds.DELETES])
async def test_a_payload_of_all_versions_brings_documents_and_hard_deletes(
    runtime: Runtime, writer: CosmosStore, steps: Steps, feeds: Feeds
) -> None:
    of_deletes = replace(_TRIGGER, feeds=feeds)
    container = writer.container(ACCOUNTS)
    for id_ in ("stays", "goes"):
        await container.upsert_item(_account(id_))
    [stays, goes] = await steps.watch()
    items = [_item("create", stays), _item("create", goes)]
    await take(runtime, _TRIGGER, json.dumps(items), 0)
    assert await steps.content("goes") is not None
    await container.delete_item("goes", partition_key="goes")
    deleted = {"current": {}, "previous": goes, "metadata": {**_metadata("delete", goes), "lsn": goes["_lsn"] + 1}}
    for attempt in range(2):
        await take(runtime, of_deletes, json.dumps([deleted]), attempt)
        assert await steps.content("goes") is None
    await take(runtime, of_deletes, json.dumps([{**stays, "DisplayName": "no delete"}]), 0)
    assert same(await steps.content("stays"), _account("stays"))


def _item(operation: str, document: Document) -> dict[str, Any]:
    return {"current": {k: v for k, v in document.items() if k != "_lsn"}, "metadata": _metadata(operation, document)}


def _metadata(operation: str, document: Document) -> dict[str, Any]:
    return {
        "operationType": operation,
        "lsn": document["_lsn"],
        "crts": document["_ts"],
        "id": document["id"],
        "partitionKey": {"id": document["id"]},
    }


async def test_connections_that_are_broken_are_made_anew_and_whoever_uses_them_may_end(runtime: Runtime) -> None:
    async with runtime.application() as first:
        pool = first.engine.pool
        with suppress(ConnectionError):
            async with runtime.application() as same_one:
                assert same_one is first
                await first.store.client.__aexit__()
                raise ConnectionError
        async with runtime.application() as second:
            assert second is not first
            await second.store.ping()
        assert first.engine.pool is pool, "still in use"
    assert first.engine.pool is not pool, "closed by the last who used it"
    async with runtime.application() as third:
        assert third is second


async def test_an_error_that_breaks_nothing_costs_no_connection(runtime: Runtime) -> None:
    with pytest.raises(RuntimeError):
        async with runtime.application() as first:
            raise RuntimeError
    async with runtime.application() as second:
        assert second is first


async def test_a_wrong_setting_is_named_until_it_is_right_and_keeps_the_batch(
    runtime: Runtime, writer: CosmosStore, steps: Steps
) -> None:
    await writer.container(ACCOUNTS).upsert_item(_account("patient"))
    payload = json.dumps(await steps.watch())
    right = runtime.load
    wrong = replace(runtime, load=lambda: right().model_copy(update={"lease_container": "leases-of-nobody"}))
    for attempt in range(2):
        with pytest.raises(ConfigurationError, match="'leases-of-nobody' of the triggers' leases does not exist"):
            await take(wrong, _TRIGGER, payload, attempt)
    wrong.load = right
    await take(wrong, _TRIGGER, payload, 2)
    await wrong.close()
    assert await steps.content("patient") is not None


async def test_every_event_loop_has_connections_of_its_own(runtime: Runtime) -> None:
    async def elsewhere() -> int:
        async with runtime.application() as application, application.engine.connect() as connection:
            found: int = (await connection.exec_driver_sql("SELECT 42")).scalar_one()
        await runtime.close()
        return found

    async with runtime.application() as here:
        assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == 42
    async with runtime.application() as still:
        assert still is here


async def test_a_document_that_looks_like_an_item_of_all_versions_is_none(runtime: Runtime, steps: Steps) -> None:
    document = _account("alike", metadata={"operationType": "delete", "id": "other", "lsn": 1}, current={})
    await steps.store.container(ACCOUNTS).upsert_item(dict(document))
    await take(runtime, _TRIGGER, json.dumps(await steps.watch()), 0)
    assert same(await steps.content("alike"), document)


async def test_somebody_elses_canary_blocks_nothing(runtime: Runtime, steps: Steps) -> None:
    canary = {"id": "crossfeed-canary-\0", "crossfeed": {"kind": "canary", "epoch": 1}, "_ts": 1, "_lsn": 1}
    payload = json.dumps([{**canary, "_etag": "1"}, {**_account("behind"), "_ts": 1, "_lsn": 2, "_etag": "2"}])
    runtime.dates.spelling = Spelling.UNALTERED
    await take(runtime, _TRIGGER, payload, 0)
    assert await steps.content("behind") is not None


async def test_a_fault_of_the_program_keeps_the_batch_and_shows_no_value(runtime: Runtime) -> None:
    with pytest.raises(BatchFailedError) as failed:
        await take(runtime, _TRIGGER, '[{"id": 1, "secret": tru]', 0)
    assert "JSONDecodeError at" in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__
    assert "secret" not in str(failed.value)


async def test_the_rights_that_are_asked_for_are_enough_for_everything(runtime: Runtime, steps: Steps) -> None:
    engine, role = steps.engine, f"{steps.store.database}_functions"
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f'CREATE ROLE "{role}"')
        for what, privilege in rights_of(Process.FUNCTIONS, steps.mappings):
            await connection.exec_driver_sql(f'GRANT {privilege} ON {what} TO "{role}"')
        await connection.exec_driver_sql(_LETTER)
    right = runtime.load()
    limited = SecretStr(f"{right.require_postgres()}?options={quote(f'-c role={role}')}")
    runtime.load = lambda: right.model_copy(update={"postgres_dsn": limited})
    try:
        await steps.store.container(ACCOUNTS).upsert_item(_account("allowed"))
        await take(runtime, _TRIGGER, json.dumps(await steps.watch()), 0)
        assert await steps.content("allowed") is not None
        for chore in CHORES.values():
            await chore(runtime)
        health = await health_of(runtime)
        assert health.facts is not None
        for act in (Act.REPLAY, Act.DISCARD):
            report = await act_on_letters(runtime, act, LettersToAct.model_validate({"all": True}))
            assert report["refused"] == []
        async with runtime.application() as application, application.engine.connect() as connection:
            assert (await connection.exec_driver_sql("SELECT current_user")).scalar_one() == role
    finally:
        await runtime.close()
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f'DROP OWNED BY "{role}"')
            await connection.exec_driver_sql(f'DROP ROLE "{role}"')
