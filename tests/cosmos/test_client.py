"""What is wrong with an account, a key, a database or a container is said plainly, with the cure."""

from __future__ import annotations

import base64
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from azure.cosmos import PartitionKey
from structlog.testing import capture_logs

from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.guarded import GuardedWriter
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.errors import ConfigurationError, StoreUnavailableError
from core.settings import Settings
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, NOTES, Kept, Line, Note, note, note_identity, settings_for
from tests.cosmos.guarded_steps import publish

if TYPE_CHECKING:
    from core.local.cosmos.server import CosmosServer


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries an account four times, half a second apart, before it gives up."""
    monkeypatch.setenv("AZURE_COSMOS_HEALTH_CHECK_RETRY_AFTER_MS", "1")


async def opening(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as caught:
        async with open_cosmos(settings):
            pass
    return str(caught.value)


async def problems(store: CosmosStore, *mappings: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await store.check(mappings or MAPPINGS)
    return str(caught.value)


async def make(store: CosmosStore, name: str, path: str, **options: Any) -> None:
    await store.client.create_database_if_not_exists(store.database)
    database = store.client.get_database_client(store.database)
    await database.create_container(name, PartitionKey(path=path), **options)


async def test_what_was_provisioned_is_in_order_and_may_be_provisioned_again(store: CosmosStore) -> None:
    await store.provision(MAPPINGS)
    await store.check(MAPPINGS)


async def test_a_server_that_is_not_there_is_named(server: CosmosServer) -> None:
    settings = settings_for(server).model_copy(update={"cosmos_endpoint": "http://127.0.0.1:1/"})
    message = await opening(settings)
    assert "no Cosmos DB answers at http://127.0.0.1:1/" in message
    assert "CROSSFEED_COSMOS_ENDPOINT" in message


async def test_a_wrong_key_is_named_and_not_shown(server: CosmosServer) -> None:
    key = base64.b64encode(b"wrong" * 12).decode()
    message = await opening(Settings(cosmos_endpoint=server.endpoint, cosmos_key=key))
    assert "401" in message
    assert "CROSSFEED_COSMOS_KEY" in message
    assert key not in message


async def test_a_key_that_is_none_is_refused_before_anything_is_sent(server: CosmosServer) -> None:
    message = await opening(Settings(cosmos_endpoint=server.endpoint, cosmos_key="no key"))
    assert "not base64" in message
    assert "no key'" not in message


@pytest.mark.parametrize("endpoint", ["localhost:8081", "AccountEndpoint=https://x/;AccountKey=y", "https://"])
async def test_an_address_that_is_none_is_refused(endpoint: str) -> None:
    assert "CROSSFEED_COSMOS_ENDPOINT" in await opening(Settings(cosmos_endpoint=endpoint))


async def test_a_missing_address_is_named() -> None:
    assert "CROSSFEED_COSMOS_ENDPOINT is not set" in await opening(Settings(cosmos_endpoint=None))


async def test_a_missing_database_is_named(server: CosmosServer) -> None:
    async with open_cosmos(settings_for(server, cosmos_database="nowhere")) as store:
        message = await problems(store)
    assert "no database 'nowhere'" in message
    assert "CROSSFEED_COSMOS_DATABASE" in message


async def test_every_missing_container_is_named_with_what_to_create(server: CosmosServer) -> None:
    async with open_cosmos(settings_for(server)) as store:
        await store.client.create_database_if_not_exists(store.database)
        message = await problems(store)
    assert "container 'Lines' of mapping Line does not exist: create it with partition key /accountId" in message
    assert "container 'Notes' of mapping Note does not exist: create it with partition key /id" in message
    assert "default TTL -1" in message


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        ("/wrong", {"default_ttl": -1}, "has partition key /wrong, the mapping says /id"),
        ("/id", {}, "has no TTL: set its default TTL to -1"),
        (
            "/id",
            {"default_ttl": -1, "unique_key_policy": {"uniqueKeys": [{"paths": ["/Email"]}]}},
            "has unique keys that the mapping does not name: unique_keys=(/Email)",
        ),
    ],
)
async def test_a_container_that_does_not_fit_is_named_with_the_cure(
    server: CosmosServer, path: str, options: dict[str, Any], expected: str
) -> None:
    async with open_cosmos(settings_for(server)) as store:
        await make(store, "Notes", path, **options)
        assert expected in await problems(store, NOTES)


async def test_what_is_wrong_with_our_own_containers_is_said_to_who_needs_them(server: CosmosServer) -> None:
    async with open_cosmos(settings_for(server, events_container="Said")) as store:
        await store.provision([NOTES])
        await store.check([NOTES], store.own)
        await store.client.get_database_client(store.database).delete_container("Said")
        await store.check([NOTES])
        with pytest.raises(ConfigurationError, match="container 'Said' of domain events does not exist: create"):
            await store.check([NOTES], store.own)
        await make(store, "Said", "/id")
        with pytest.raises(ConfigurationError, match="'Said' of domain events has partition key /id, it must be /subj"):
            await store.check([NOTES], store.own)


async def test_a_container_whose_documents_expire_is_taken_as_it_is(server: CosmosServer) -> None:
    async with open_cosmos(settings_for(server)) as store:
        await make(store, "Notes", "/id", default_ttl=60)
        with capture_logs() as logs:
            await store.check([NOTES])
    assert [entry["event"] for entry in logs] == ["cosmos.documents_expire"]


async def test_a_missing_container_is_no_missing_document(server: CosmosServer) -> None:
    async with open_cosmos(settings_for(server)) as store:
        await store.client.create_database_if_not_exists(store.database)
        documents = CosmosDocuments(store, MAPPINGS)
        with pytest.raises(StoreUnavailableError, match="container 'Notes' of mapping Note does not exist"):
            await documents.read(note_identity())
        with pytest.raises(StoreUnavailableError, match="does not exist"):
            await GuardedWriter(store, MAPPINGS, Kept(), 1).write([publish(note_identity(), Stamp(1, 1), note("n1"))])
        async with CosmosUnitOfWork(store, MAPPINGS, 1) as work:
            await work[Note].add(Note(id="n1"))
            with pytest.raises(StoreUnavailableError, match="does not exist"):
                await work.commit()
            for read in (work[Note].get_by_id, work[Note].exists):
                with pytest.raises(StoreUnavailableError):
                    await read("n1")
            with pytest.raises(StoreUnavailableError):
                await work[Note].list()
            with pytest.raises(StoreUnavailableError):
                await work[Line].get_by_id("l1")


async def test_an_account_with_several_write_regions_is_refused(
    store: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.client._get_database_account

    async def several() -> Any:
        account = await real()
        account._EnableMultipleWritableLocations = True
        return account

    monkeypatch.setattr(store.client, "_get_database_account", several)
    assert "multi-region writes" in await problems(store)


async def test_the_account_of_the_embedded_server_says_so_itself(store: CosmosStore) -> None:
    """What the check reads is what the client makes of the account's own answer."""
    account = await store.client._get_database_account()
    assert account._EnableMultipleWritableLocations is False


async def test_nothing_is_left_open(server: CosmosServer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with open_cosmos(settings_for(server)) as store:
            await store.provision([LINES])
            transport: Any = store.client.client_connection.pipeline_client._pipeline._transport
            session = transport.session
        assert session.closed


async def test_the_connections_are_reused_and_proxies_are_ignored_unless_asked_for(
    server: CosmosServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with open_cosmos(settings_for(server)) as store:
        await store.provision([LINES])
    assert "no Cosmos DB answers" in await opening(settings_for(server, cosmos_use_proxy_settings=True))
